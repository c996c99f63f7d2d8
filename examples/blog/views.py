"""An entry with its comments, and the form for one more."""

from django import forms
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, render
from examples.blog import tasks
from examples.blog.models import Comment, Entry


class CommentForm(forms.ModelForm):
    # A link without a scheme is a secure one; Django 6 takes it for that by itself.
    homepage = forms.URLField(required=False, assume_scheme="https")

    class Meta:
        model = Comment
        fields = ("name", "email_address", "homepage", "comment")


def show_entry(request: HttpRequest, slug: str) -> HttpResponse:
    entry = get_object_or_404(Entry, slug=slug)
    comments = entry.comments.filter(is_spam=False).order_by("pub_date")
    return render(request, "blog/entry.html", {"entry": entry, "comments": comments, "form": CommentForm()})


def add_comment(request: HttpRequest, slug: str) -> HttpResponse:
    """Save the comment, have it checked in the background, and go back to the entry at once."""
    entry = get_object_or_404(Entry, slug=slug)
    if request.method != "POST":
        return render(request, "blog/create.html", {"entry": entry, "form": CommentForm()})
    form = CommentForm(request.POST)
    form.instance.entry = entry
    if not form.is_valid():
        return render(request, "blog/create.html", {"entry": entry, "form": form}, status=400)
    # The call is a row of the same transaction: no worker looks for a comment that is not there yet, none is checked that was
    # rolled back, and none is forgotten when this process dies right after the commit.
    with transaction.atomic():
        comment = form.save()
        tasks.spam_filter.delay_in_outbox(comment_id=comment.pk, remote_addr=request.META.get("REMOTE_ADDR"))
    return HttpResponseRedirect(entry.get_absolute_url())
