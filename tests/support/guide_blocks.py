"""Every block of code of the tasks guide, in its order: ported to Python 3, `celery` read as `celeriac`, and changed in no more than `changed` says.

`file` is where a block stands in the project that tests/worker/test_guide_blocks.py writes; a shell session stands in none. `test` is what holds it.
What a block takes from its surroundings (a decorator, a library) is in SURROUNDINGS: imports that the guide leaves out stand above the block.
"""

from typing import NamedTuple


class Block(NamedTuple):
    """One block. above: what the guide's reader has written before it in that file."""

    section: str
    file: str
    source: str
    test: str
    above: str = ""
    changed: str = ""


TASK = "from celeriac.task import task\n"

BLOCKS = (
    Block(
        "Basics",
        "users.py",
        """
from django.contrib.auth.models import User

from celeriac.task import task

@task
def create_user(username, password):
    User.objects.create(username=username, password=password)
""",
        "test_a_task_creates_a_user",
        changed="User is imported from django.contrib.auth.models, where it has always been",
    ),
    Block(
        "Basics",
        "users_json.py",
        """
@task(serializer="json")
def create_user(username, password):
    User.objects.create(username=username, password=password)
""",
        "test_a_task_creates_a_user",
        above="from django.contrib.auth.models import User\n" + TASK,
    ),
    Block(
        "Context",
        "context.py",
        """
from celeriac.task import task

@task
def add(x, y):
    print("Executing task id %r, args: %r kwargs: %r" % (
        add.request.id, add.request.args, add.request.kwargs))
""",
        "test_what_is_printed_goes_to_the_log",
    ),
    Block(
        "Logging",
        "adding.py",
        """
@task
def add(x, y):
    logger = add.get_logger()
    logger.info("Adding %s + %s" % (x, y))
    return x + y
""",
        "test_a_task_s_logger_writes_to_the_log",
        above=TASK,
    ),
    Block(
        "Retrying a task if something fails",
        "statuses.py",
        """
@task
def send_twitter_status(oauth, tweet):
    try:
        twitter = Twitter(oauth)
        twitter.update_status(tweet)
    except (Twitter.FailWhaleError, Twitter.LoginError) as exc:
        send_twitter_status.retry(exc=exc)
""",
        "test_a_task_is_retried_and_its_exception_is_the_tombstone",
        above=TASK + "from twitter import Twitter\n",
        changed="except … as exc",
    ),
    Block(
        "Using a custom retry delay",
        "delays.py",
        """
@task(default_retry_delay=30 * 60)  # retry in 30 minutes.
def add(x, y):
    try:
        ...
        raise OSError("of the test")
    except Exception as exc:
        add.retry(exc=exc, countdown=60)  # override the default and
                                          # retry in 1 minute.
""",
        "test_a_countdown_stands_above_the_default_delay",
        above=TASK,
        changed="except … as exc; something is raised where the guide has dots",
    ),
    Block(
        "Task names",
        "",
        """
>>> @task(name="sum-of-two-numbers")
... def add(x, y):
...     return x + y

>>> add.name
'sum-of-two-numbers'
""",
        "test_a_session_prints_what_the_guide_says",
        above=TASK,
        changed="the line after a decorator begins with dots, as Python prints it",
    ),
    Block(
        "Task names",
        "",
        """
>>> @task(name="tasks.add")
... def add(x, y):
...     return x + y

>>> add.name
'tasks.add'
""",
        "test_a_session_prints_what_the_guide_says",
        above=TASK,
        changed="the line after a decorator begins with dots, as Python prints it",
    ),
    Block(
        "Task names",
        "",
        """
>>> @task()
... def add(x, y):
...     return x + y

>>> add.name
'tasks.add'
""",
        "test_a_session_prints_what_the_guide_says",
        above=TASK,
        changed="the line after a decorator begins with dots, as Python prints it",
    ),
    Block(
        "Automatic naming and relative imports",
        "outer_settings.py",
        """
INSTALLED_APPS = ("project.myapp", )
""",
        "test_a_worker_and_a_client_that_import_a_module_differently_do_not_fit",
    ),
    Block(
        "Automatic naming and relative imports",
        "",
        """
>>> from myapp.tasks import add
>>> add.name
'myapp.tasks.add'
""",
        "test_a_session_prints_what_the_guide_says",
    ),
    Block(
        "Automatic naming and relative imports",
        "inner_settings.py",
        """
import os
import sys

sys.path.append(os.getcwd())

INSTALLED_APPS = ("myapp", )
""",
        "test_a_worker_and_a_client_that_import_a_module_differently_do_not_fit",
    ),
    Block(
        "Decorating tasks",
        "decorated.py",
        """
@task
@decorator2
@decorator1
def add(x, y):
    return x + y
""",
        "test_other_decorators_stand_below_task",
        above=TASK + "from decorators import decorator1, decorator2\n",
    ),
    Block(
        "Custom states",
        "uploads.py",
        """
@task
def upload_files(filenames):
    for i, file in enumerate(filenames):
        upload_files.update_state(state="PROGRESS",
            meta={"current": i, "total": len(filenames)})
""",
        "test_a_state_of_the_task_s_own_is_seen_by_who_waits",
        above=TASK,
    ),
    Block(
        "Creating custom task classes",
        "behind_function.py",
        """
@task
def add(x, y):
    return x + y
""",
        "test_a_decorated_function_and_a_class_do_roughly_the_same",
        above=TASK,
    ),
    Block(
        "Creating custom task classes",
        "behind_class.py",
        """
class AddTask(Task):

    def run(self, x, y):
        return x + y
add = registry.tasks[AddTask.name]
""",
        "test_a_decorated_function_and_a_class_do_roughly_the_same",
        above="from celeriac import registry\nfrom celeriac.task import Task\n",
        changed="class where the guide has `@task def`, which is no Python",
    ),
    Block(
        "Instantiation",
        "authentication.py",
        """
class NaiveAuthenticateServer(Task):

    def __init__(self):
        self.users = {"george": "password"}

    def run(self, username, password):
        try:
            return self.users[username] == password
        except KeyError:
            return False
""",
        "test_a_task_keeps_state_between_requests",
        above="from celeriac.task import Task\n",
    ),
    Block(
        "Instantiation",
        "databases.py",
        """
class DatabaseTask(Task):
    _db = None

    @property
    def db(self):
        if self._db is None:
            self._db = Database.connect()
        return self._db
""",
        "test_a_task_connects_once",
        above="from celeriac.task import Task, task\nfrom database import Database\n",
        changed="`is None` where the guide has `= None`, which is no Python",
    ),
    Block(
        "Abstract classes",
        "debugging.py",
        """
class DebugTask(Task):
    abstract = True

    def after_return(self, *args, **kwargs):
        print("Task returned: %r" % (self.request, ))


@task(base=DebugTask)
def add(x, y):
    return x + y
""",
        "test_an_abstract_base_is_told_of_each_return",
        above="from celeriac.task import Task, task\n",
    ),
    Block(
        "How it works",
        "",
        """
>>> from celeriac import registry
>>> from celeriac import task

>>> registry.tasks
{...
""",
        "test_the_registry_lists_what_is_built_in",
        changed="what is printed is of this version: see rows 132 to 138 of docs/guide-coverage.md",
    ),
    Block(
        "How it works",
        "unregistered.py",
        """
class MyTask(Task):
    abstract = True
""",
        "test_an_abstract_task_is_not_registered_and_what_inherits_from_it_is",
        above="from celeriac.task import Task\n",
    ),
    Block(
        "Ignore results you don't want",
        "ignoring.py",
        """
@task(ignore_result=True)
def mytask():
    something()
""",
        "test_an_ignored_result_is_not_stored",
        above=TASK + "def something(): print('something was done')\n",
        changed="no arguments where the guide has dots",
    ),
    Block(
        "Disable rate limits if they're not used",
        "celeryconfig.py",
        """
CELERY_DISABLE_RATE_LIMITS = True
""",
        "test_rate_limits_are_off",
        above="""
import os

BROKER_URL = os.environ["BROKER"]
CELERY_RESULT_BACKEND = os.environ["BACKEND"]
CELERY_IMPORTS = ("users", "users_json", "context", "adding", "statuses", "delays", "decorated", "uploads", "behind_function", "behind_class",
    "authentication", "databases", "connecting", "debugging", "unregistered", "inheriting", "ignoring", "limited", "pages_bad", "pages_good",
    "abbreviations_by_model", "abbreviations")
""",
    ),
    Block(
        "Avoid launching synchronous subtasks",
        "pages_bad.py",
        """
@task
def update_page_info(url):
    page = fetch_page.delay(url).get()
    info = parse_page.delay(url, page).get()
    store_page_info.delay(url, info)

@task
def fetch_page(url):
    return myhttplib.get(url)

@task
def parse_page(url, page):
    return myparser.parse_document(page)

@task
def store_page_info(url, info):
    return PageInfo.objects.create(url, info)
""",
        "test_to_wait_for_another_task_is_refused",
        above=TASK + "import myhttplib, myparser\nfrom articles.models import PageInfo\n",
    ),
    Block(
        "Avoid launching synchronous subtasks",
        "pages_good.py",
        """
@task(ignore_result=True)
def update_page_info(url):
    # fetch_page -> parse_page -> store_page
    fetch_page.delay(url, callback=subtask(parse_page,
                                callback=subtask(store_page_info)))

@task(ignore_result=True)
def fetch_page(url, callback=None):
    page = myhttplib.get(url)
    if callback:
        # The callback may have been serialized with JSON,
        # so best practice is to convert the subtask dict back
        # into a subtask object.
        subtask(callback).delay(url, page)

@task(ignore_result=True)
def parse_page(url, page, callback=None):
    info = myparser.parse_document(page)
    if callback:
        subtask(callback).delay(url, info)

@task(ignore_result=True)
def store_page_info(url, info):
    PageInfo.objects.create(url=url, info=info)
""",
        "test_callbacks_do_the_same_without_waiting",
        above=TASK
        + "from celeriac.task.sets import subtask\nimport myhttplib, myparser\nfrom articles.models import PageInfo\n",
        changed="Django's create takes its values by name",
    ),
    Block(
        "State",
        "articles/models.py",
        """
class Article(models.Model):
    title = models.CharField(max_length=100)
    body = models.TextField()
""",
        "test_an_article_is_fetched_where_the_task_runs",
        above="from django.db import models\n",
        changed="Django wants a max_length",
    ),
    Block(
        "State",
        "abbreviations_by_model.py",
        """
@task
def expand_abbreviations(article):
    article.body.replace("MyCorp", "My Corporation")
    article.save()
""",
        "test_a_model_is_no_argument",
        above=TASK,
    ),
    Block(
        "State",
        "",
        """
>>> article = Article.objects.get(id=102)
>>> expand_abbreviations.delay(article)
""",
        "test_a_model_is_no_argument",
        changed="article where the guide has model_object, which it does not define",
    ),
    Block(
        "State",
        "abbreviations.py",
        """
@task
def expand_abbreviations(article_id):
    article = Article.objects.get(id=article_id)
    article.body = article.body.replace("MyCorp", "My Corporation")
    article.save()
""",
        "test_an_article_is_fetched_where_the_task_runs",
        above=TASK + "from articles.models import Article\n",
        changed="what replace gives is kept: the guide drops it",
    ),
    Block(
        "State",
        "",
        """
>>> expand_abbreviations(article_id)
""",
        "test_an_article_is_fetched_where_the_task_runs",
    ),
    Block(
        "Database transactions",
        "articles/views_racing.py",
        """
from django.db import transaction

@transaction.atomic
def create_article(request):
    article = Article.objects.create(title="t", body="of MyCorp")
    expand_abbreviations.delay(article.pk)
""",
        "test_a_task_that_is_sent_before_the_commit_finds_nothing",
        above="from abbreviations import expand_abbreviations\nfrom articles.models import Article\n",
        changed="atomic for commit_on_success, which Django has no more; values where the guide has dots",
    ),
    Block(
        "Database transactions",
        "articles/views.py",
        """
def create_article(request):
    transaction.set_autocommit(False)
    try:
        article = Article.objects.create(title="t", body="of MyCorp")
    except:
        transaction.rollback()
        raise
    else:
        transaction.commit()
        expand_abbreviations.delay(article.pk)
    finally:
        transaction.set_autocommit(True)
""",
        "test_a_task_that_is_sent_after_the_commit_finds_the_article",
        above="from django.db import transaction\nfrom abbreviations import expand_abbreviations\nfrom articles.models import Article\n",
        changed="set_autocommit for commit_manually, which Django has no more; values where the guide has dots",
    ),
    Block(
        "Example",
        "blog/models.py",
        """
from django.db import models
from django.utils.translation import gettext_lazy as _


class Comment(models.Model):
    name = models.CharField(_("name"), max_length=64)
    email_address = models.EmailField(_("email address"))
    homepage = models.URLField(_("home page"),
                               blank=True)
    comment = models.TextField(_("comment"))
    pub_date = models.DateTimeField(_("Published date"),
                                    editable=False, auto_now_add=True)
    is_spam = models.BooleanField(_("spam?"),
                                  default=False, editable=False)

    class Meta:
        verbose_name = _("comment")
        verbose_name_plural = _("comments")
""",
        "test_a_comment_is_saved_at_once_and_found_to_be_spam_later",
        changed="gettext_lazy for ugettext_lazy; no verify_exists; auto_now_add, where the guide has auto_add_now",
    ),
    Block(
        "Example",
        "blog/views.py",
        """
from django import forms
from django.http import HttpResponseRedirect
from django.shortcuts import get_object_or_404, render

from blog import tasks
from blog.models import Comment


class CommentForm(forms.ModelForm):

    class Meta:
        model = Comment
        fields = ("name", "email_address", "comment")


def add_comment(request, slug, template_name="comments/create.html"):
    post = get_object_or_404(Entry, slug=slug)
    remote_addr = request.META.get("REMOTE_ADDR")

    if request.method == "POST":
        form = CommentForm(request.POST, request.FILES)
        if form.is_valid():
            comment = form.save()
            # Check spam asynchronously.
            tasks.spam_filter.delay(comment_id=comment.id,
                                    remote_addr=remote_addr)
            return HttpResponseRedirect(post.get_absolute_url())
    else:
        form = CommentForm()

    return render(request, template_name, {"form": form})
""",
        "test_a_comment_is_saved_at_once_and_found_to_be_spam_later",
        above="from articles.models import Entry\n",
        changed="render for render_to_response and RequestContext; a form names its fields; a method is spelt POST",
    ),
    Block(
        "Example",
        "blog/tasks.py",
        """
from akismet import Akismet
from celeriac.task import task

from django.core.exceptions import ImproperlyConfigured
from django.contrib.sites.models import Site

from blog.models import Comment


@task
def spam_filter(comment_id, remote_addr=None):
    logger = spam_filter.get_logger()
    logger.info("Running spam filter for comment %s" % comment_id)

    comment = Comment.objects.get(pk=comment_id)
    current_domain = Site.objects.get_current().domain
    akismet = Akismet(settings.AKISMET_KEY, "http://%s" % current_domain)
    if not akismet.verify_key():
        raise ImproperlyConfigured("Invalid AKISMET_KEY")

    is_spam = akismet.comment_check(user_ip=remote_addr,
                        comment_content=comment.comment,
                        comment_author=comment.name,
                        comment_author_email=comment.email_address)
    if is_spam:
        comment.is_spam = True
        comment.save()

    return is_spam
""",
        "test_a_comment_is_saved_at_once_and_found_to_be_spam_later",
        above="from django.conf import settings\n",
        changed="current_domain, where the guide has domain, which it does not define",
    ),
)

#: What the guide's reader has beside its code: file -> source.
SURROUNDINGS = {
    "project_app.py": """
import os

from celeriac import Celeriac

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project_settings")
app = Celeriac("project")
app.config_from_object("celeryconfig")
app.autodiscover_tasks()
""",
    "project_settings.py": """
import os

SECRET_KEY = "of a test"
ALLOWED_HOSTS = ["testserver"]
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sites", "articles", "blog"]
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["DATABASE"], "OPTIONS": {"timeout": 20}}
}
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "DIRS": ["templates"]}]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "project_urls"
SITE_ID = 1
USE_TZ = True
AKISMET_KEY = os.environ["AKISMET_KEY"]
""",
    "project_urls.py": """
from django.urls import path

from blog.views import add_comment

urlpatterns = [path("<slug:slug>/comment/", add_comment)]
""",
    "templates/comments/create.html": "{{ form.as_p }}",
    "twitter.py": """
import os


class Twitter:
    class FailWhaleError(Exception):
        pass

    class LoginError(Exception):
        pass

    def __init__(self, oauth):
        self.oauth = oauth

    def update_status(self, tweet):
        if self.oauth != "oauth":
            raise Twitter.LoginError(self.oauth)
        print("tweeted %s" % tweet)
""",
    "decorators.py": """
from functools import wraps


def decorator1(function):
    return wraps(function)(lambda x, y: function(x, y) * 10)


def decorator2(function):
    return wraps(function)(lambda x, y: function(x, y) + 1)
""",
    "database.py": """
import os
import time


class Database:
    @classmethod
    def connect(cls):
        return [os.getpid(), time.monotonic_ns()]
""",
    "connecting.py": """
from celeriac.task import task
from databases import DatabaseTask


@task(base=DatabaseTask)
def which():
    return which.db
""",
    "inheriting.py": """
from unregistered import MyTask


class Inheriting(MyTask):
    def run(self):
        return "run"
""",
    "limited.py": """
from celeriac.task import task


@task(rate_limit="1/h")
def seldom():
    return "often"
""",
    "myhttplib.py": "def get(url): return 'page of ' + url\n",
    "myparser.py": "def parse_document(page): return page.upper()\n",
    "articles/models.py": """


class PageInfo(models.Model):
    url = models.CharField(max_length=100)
    info = models.TextField()


class Entry(models.Model):
    slug = models.SlugField()

    def get_absolute_url(self):
        return "/%s/" % self.slug
""",
    "akismet.py": """
import os
import urllib.parse
import urllib.request


class Akismet:
    def __init__(self, key, blog):
        self.key, self.blog = key, blog

    def verify_key(self):
        return self._ask("verify-key", key=self.key) == "valid"

    def comment_check(self, **comment):
        return self._ask("comment-check", **comment) == "true"

    def _ask(self, question, **form):
        form = urllib.parse.urlencode({"api_key": self.key, "blog": self.blog, **form}).encode()
        with urllib.request.urlopen("%s/1.1/%s" % (os.environ["AKISMET_URL"], question), form, timeout=10) as response:
            return response.read().decode()
""",
    "project/__init__.py": "",
    "project/myapp/__init__.py": "",
    "project/myapp/tasks.py": """
from celeriac.task import task


@task
def add(x, y):
    return x + y
""",
}
