__all__ = ["Scheduler"]

class Scheduler:
    def __new__(cls, patience: float) -> Scheduler: ...
