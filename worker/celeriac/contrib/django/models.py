"""The outbox's table, as contrib/sqlalchemy.py has it: either may read what the other writes."""

from django.db import models

from celeriac.contrib.outbox import TABLE


class OutboxMessage(models.Model):
    """A message that waits for its publish. free_at: epoch seconds from which a relay may take it; tries, trouble: what the broker said."""

    place = models.BigAutoField(primary_key=True)
    task_id = models.CharField(max_length=255)
    message = models.TextField()
    made_at = models.FloatField()
    free_at = models.FloatField(db_index=True)
    taken_by = models.CharField(max_length=32, null=True)
    tries = models.IntegerField()
    trouble = models.CharField(max_length=500)

    class Meta:
        db_table = TABLE
        verbose_name = "outbox message"

    def __str__(self) -> str:
        return str(self.task_id)
