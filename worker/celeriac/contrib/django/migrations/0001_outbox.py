"""The outbox's table."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """As models.py has it."""

    initial = True
    dependencies: list[tuple[str, str]] = []
    operations = [
        migrations.CreateModel(
            name="OutboxMessage",
            fields=[
                ("place", models.BigAutoField(primary_key=True, serialize=False)),
                ("task_id", models.CharField(max_length=255)),
                ("message", models.TextField()),
                ("made_at", models.FloatField()),
                ("free_at", models.FloatField(db_index=True)),
                ("taken_by", models.CharField(max_length=32, null=True)),
                ("tries", models.IntegerField()),
                ("trouble", models.CharField(max_length=500)),
            ],
            options={"db_table": "celeriac_outbox", "verbose_name": "outbox message"},
        ),
    ]
