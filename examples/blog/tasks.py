"""The spam filter: each comment is shown to Akismet once it is saved, in the background."""

from django.conf import settings
from django.contrib.sites.models import Site
from django.core.exceptions import ImproperlyConfigured
from examples.blog.akismet import Akismet, AkismetError
from examples.blog.app import app
from examples.blog.models import Comment


@app.task(max_retries=5, default_retry_delay=1)
def spam_filter(comment_id: int, remote_addr: str | None = None) -> bool:
    """Mark a comment as spam if Akismet takes it for that; whether it does. Asks again later when Akismet cannot answer.

    It is sent at least once, and may run twice: it sets what is so, and adds nothing.
    """
    logger = spam_filter.get_logger()
    logger.info("Running spam filter for comment %s", comment_id)

    comment = Comment.objects.get(pk=comment_id)
    current_domain = Site.objects.get_current().domain
    akismet = Akismet(settings.AKISMET_KEY, f"http://{current_domain}", service=settings.AKISMET_URL)
    try:
        if not akismet.verify_key():
            raise ImproperlyConfigured("Invalid AKISMET_KEY")
        is_spam = akismet.comment_check(
            user_ip=remote_addr,
            comment_content=comment.comment,
            comment_author=comment.name,
            comment_author_email=comment.email_address,
        )
    except AkismetError as error:
        raise spam_filter.retry(exc=error) from error
    if is_spam:
        comment.is_spam = True
        comment.save()
    return is_spam
