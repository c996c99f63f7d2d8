"""One model."""

from django.db import models


class Article(models.Model):
    """What a task looks for."""

    title = models.CharField(max_length=50)

    class Meta:
        app_label = "blog"

    def __str__(self) -> str:
        return str(self.title)
