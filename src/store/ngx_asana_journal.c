
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * The zone believes in what it has as long as it forgets each key that the
 * journal names.  What workers share for it are the words of conf->shared:
 *
 *     CLAIM    when the journal was read, or until when it is somebody's
 *     KNOWN    the position up to which the zone has forgotten
 *     AHEAD    the same, before it begins to forget, and of own commits
 *     CONTACT  when the journal was read with success
 *     EPOCH    the version; a new one each time that the journal has a gap
 *     HEARD    when anybody has succeeded with anything
 *
 * An entry that was read at the position of a change, or later, is kept.  A
 * look-up that was read before AHEAD may bring back what the zone has forgotten
 * just then, and is not kept.  A worker that is killed while it forgets leaves
 * KNOWN as it was, and the next one does it again.
 */


#include "ngx_asana_journal.h"


#if (NGX_PTR_SIZE < 8)
#error "positions of the journal need atomic words of 64 bits"
#endif


/* a version that no entry of a cache has */
#define NGX_ASANA_JOURNAL_STALE  ((uint64_t) -1)

/* milliseconds */
#define NGX_ASANA_JOURNAL_TICK   10


typedef enum {
    NGX_ASANA_JOURNAL_CLAIM = 0,
    NGX_ASANA_JOURNAL_KNOWN,
    NGX_ASANA_JOURNAL_AHEAD,
    NGX_ASANA_JOURNAL_CONTACT,
    NGX_ASANA_JOURNAL_EPOCH,
    NGX_ASANA_JOURNAL_HEARD
} ngx_asana_journal_word_e;


static void ngx_asana_journal_gap(ngx_asana_journal_t *journal,
    ngx_asana_postgres_look_t *look);


void
ngx_asana_journal_init(ngx_asana_journal_t *journal,
    ngx_asana_backend_conf_t *conf)
{
    journal->conf = conf;
    journal->shared = conf->shared ? conf->shared : journal->own;
}


uint64_t
ngx_asana_journal_version(ngx_asana_journal_t *journal)
{
    uint64_t        epoch;
    ngx_msec_int_t  age;

    epoch = journal->shared[NGX_ASANA_JOURNAL_EPOCH];
    age = ngx_current_msec - journal->shared[NGX_ASANA_JOURNAL_CONTACT];

    return (epoch == 0 || age / 1000 < journal->conf->stale)
           ? epoch : NGX_ASANA_JOURNAL_STALE;
}


ngx_uint_t
ngx_asana_journal_alive(ngx_asana_journal_t *journal)
{
    ngx_msec_int_t  age, limit;

    age = ngx_current_msec - journal->shared[NGX_ASANA_JOURNAL_CONTACT];
    limit = 2 * journal->conf->poll + journal->conf->timeout;

    return journal->shared[NGX_ASANA_JOURNAL_EPOCH] && age <= limit;
}


ngx_msec_t
ngx_asana_journal_contact(ngx_asana_journal_t *journal)
{
    return journal->shared[NGX_ASANA_JOURNAL_CONTACT];
}


ngx_msec_t
ngx_asana_journal_heard(ngx_asana_journal_t *journal)
{
    return journal->shared[NGX_ASANA_JOURNAL_HEARD];
}


ngx_msec_t
ngx_asana_journal_due(ngx_asana_journal_t *journal)
{
    ngx_msec_int_t  left;

    left = journal->shared[NGX_ASANA_JOURNAL_CLAIM] + journal->conf->poll
           - ngx_current_msec;

    return (ngx_msec_t) ngx_max(left, NGX_ASANA_JOURNAL_TICK);
}


/* it is this worker's until it is done, or some time after it has died */

ngx_uint_t
ngx_asana_journal_claim(ngx_asana_journal_t *journal)
{
    ngx_msec_t     now, claim;
    ngx_atomic_t  *word;

    now = ngx_current_msec;
    word = &journal->shared[NGX_ASANA_JOURNAL_CLAIM];
    claim = *word;

    if (claim && (ngx_msec_int_t) (now - claim - journal->conf->poll) < 0) {
        return 0;
    }

    return ngx_atomic_cmp_set(word, claim, now + journal->conf->timeout) != 0;
}


void
ngx_asana_journal_look(ngx_asana_journal_t *journal,
    ngx_asana_postgres_look_t *look)
{
    look->version = journal->shared[NGX_ASANA_JOURNAL_EPOCH];
    look->ahead = journal->shared[NGX_ASANA_JOURNAL_AHEAD];
    look->from = journal->shared[NGX_ASANA_JOURNAL_KNOWN];
}


void
ngx_asana_journal_read(ngx_asana_journal_t *journal,
    ngx_asana_postgres_look_t *look)
{
    ngx_uint_t                     i;
    ngx_atomic_t                  *shared;
    ngx_asana_postgres_changed_t  *changed;

    shared = journal->shared;

    if (look->rc != NGX_OK) {
        shared[NGX_ASANA_JOURNAL_CLAIM] = look->started;
        return;
    }

    /* without what this host has committed it went back in time */

    if (!look->more && look->position < look->ahead) {
        look->gap = 1;
    }

    if (look->gap) {
        ngx_asana_journal_gap(journal, look);

    } else {
        ngx_asana_journal_committed(journal, look->position);
    }

    changed = look->changed.elts;

    for (i = 0; i < look->changed.nelts; i++) {
        journal->conf->forget(journal->conf->data, &changed[i].key,
                              changed[i].position);
    }

    shared[NGX_ASANA_JOURNAL_KNOWN] = look->position;

    if (look->more) {

        /* the rest is due at once */

        shared[NGX_ASANA_JOURNAL_CLAIM] = look->started - journal->conf->poll;
        return;
    }

    shared[NGX_ASANA_JOURNAL_CONTACT] = look->started;
    shared[NGX_ASANA_JOURNAL_HEARD] = look->started;
    shared[NGX_ASANA_JOURNAL_CLAIM] = look->started;
}


static void
ngx_asana_journal_gap(ngx_asana_journal_t *journal,
    ngx_asana_postgres_look_t *look)
{
    ngx_atomic_t  *shared;

    shared = journal->shared;
    shared[NGX_ASANA_JOURNAL_AHEAD] = look->position;

    if (look->from) {
        ngx_log_error(NGX_LOG_CRIT, ngx_cycle->log, 0,
                      "asana_hook: zone \"%V\": the journal in PostgreSQL does "
                      "not go on where this host left it, so its cache is "
                      "dropped; if the database was restored, or failed over, "
                      "later secrets may be lost: create their webhooks anew",
                      &journal->conf->zone);
    }

    /* before the first contact, or the first change, nothing else was read */

    if (look->from || shared[NGX_ASANA_JOURNAL_EPOCH] == 0) {
        (void) ngx_atomic_fetch_add(&shared[NGX_ASANA_JOURNAL_EPOCH], 1);
    }

    look->version = shared[NGX_ASANA_JOURNAL_EPOCH];

    journal->conf->forget(journal->conf->data, NULL, look->position);
}


/* what others are reading just now may be older than this */

void
ngx_asana_journal_committed(ngx_asana_journal_t *journal, uint64_t position)
{
    uint64_t       ahead;
    ngx_atomic_t  *word;

    if (position) {
        journal->shared[NGX_ASANA_JOURNAL_HEARD] = ngx_current_msec;
    }

    word = &journal->shared[NGX_ASANA_JOURNAL_AHEAD];

    do {
        ahead = *word;

    } while (position > ahead && !ngx_atomic_cmp_set(word, ahead, position));
}


ngx_atomic_t *
ngx_asana_journal_ahead(ngx_asana_journal_t *journal)
{
    return &journal->shared[NGX_ASANA_JOURNAL_AHEAD];
}
