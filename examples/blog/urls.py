"""Two pages."""

from django.urls import path
from examples.blog import views

urlpatterns = [
    path("<slug:slug>/", views.show_entry, name="entry"),
    path("<slug:slug>/comment/", views.add_comment, name="comment"),
]
