"""What stands in front of a trainer of nnU-Net and changes what it does."""

from typing import Any

__all__ = ["TrainerMixin"]


class TrainerMixin:
    """The base of our mixins: refuses to stand behind the trainer, where it would change nothing."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        order = [each for each in cls.__mro__ if each is not TrainerMixin]
        mixins = [i for i, each in enumerate(order) if issubclass(each, TrainerMixin)]
        trainers = [
            i for i, each in enumerate(order) if i not in mixins and "initialize" in vars(each)
        ]
        if trainers and mixins[-1] > trainers[0]:
            raise TypeError(
                f"{cls.__name__} names the trainer before the mixin, which then changes nothing: "
                "put the mixin first"
            )
