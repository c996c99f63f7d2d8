"""New ids are random UUIDs of version 4, and a forked process makes its own."""

import os
import uuid

from celeriac.ids import new_id


def test_an_id_is_a_uuid_of_version_4_as_text() -> None:
    for _ in range(2000):
        text = new_id()
        known = uuid.UUID(text)
        assert (known.version, known.variant, str(known)) == (4, uuid.RFC_4122, text)


def test_all_its_digits_but_two_are_random() -> None:
    ids = [new_id() for _ in range(2000)]

    kinds = [len({each[place] for each in ids}) for place in range(36)]

    assert kinds[:8] + kinds[9:13] + kinds[15:18] + kinds[20:23] + kinds[24:] == [16] * 30
    assert [kinds[place] for place in (8, 13, 14, 18, 19, 23)] == [1, 1, 1, 1, 4, 1]
    assert len(set(ids)) == 2000


def test_a_forked_process_makes_ids_of_its_own() -> None:
    new_id()
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(theirs, new_id().encode())
        os._exit(0)
    mine = new_id()
    os.waitpid(child, 0)
    os.close(theirs)

    its = os.read(ours, 100).decode()
    os.close(ours)
    assert len(its) == 36
    assert its != mine
