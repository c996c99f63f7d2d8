"""Entries of the blog, and what readers say to them."""

from django.db import models
from django.urls import reverse
from django.utils.translation import gettext_lazy as _


class Entry(models.Model):
    """One post."""

    title = models.CharField(_("title"), max_length=100)
    slug = models.SlugField(unique=True)
    body = models.TextField(_("body"))

    class Meta:
        verbose_name = _("entry")
        verbose_name_plural = _("entries")

    def __str__(self) -> str:
        return str(self.title)

    def get_absolute_url(self) -> str:
        return reverse("entry", args=[self.slug])


class Comment(models.Model):
    """What somebody says; shown until it is found to be spam."""

    entry = models.ForeignKey(Entry, on_delete=models.CASCADE, editable=False, related_name="comments")
    name = models.CharField(_("name"), max_length=64)
    email_address = models.EmailField(_("email address"))
    homepage = models.URLField(_("home page"), blank=True)
    comment = models.TextField(_("comment"))
    pub_date = models.DateTimeField(_("Published date"), editable=False, auto_now_add=True)
    is_spam = models.BooleanField(_("spam?"), default=False, editable=False)

    class Meta:
        verbose_name = _("comment")
        verbose_name_plural = _("comments")

    def __str__(self) -> str:
        return f"{self.name}: {self.comment}"
