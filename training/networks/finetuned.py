"""An encoder and a classifier as one network: files' arrays in, log-probabilities out."""

from torch import Tensor, nn

from training.networks.classifier import Classifier


class TextClassifier(nn.Module):
    """input_ids, attention_mask int64[N, L] -> log-probabilities: float32[N, classes]."""

    def __init__(self, encoder: nn.Module, classifier: Classifier) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = classifier

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        log_probabilities: Tensor = self.classifier(self.encoder(input_ids, attention_mask))
        return log_probabilities


class ImageClassifier(nn.Module):
    """uint8[N, H, W, 3] -> log-probabilities: float32[N, classes]."""

    def __init__(self, encoder: nn.Module, classifier: Classifier) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = classifier

    def forward(self, pixels: Tensor) -> Tensor:
        _, vector = self.encoder(pixels)
        log_probabilities: Tensor = self.classifier(vector)
        return log_probabilities
