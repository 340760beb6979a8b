
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * A store whose look-ups are answered later, as those of a network are: LMDB
 * behind a timer.  They wait for up to five milliseconds, and come in any
 * order, some with what the store said at once and some with what it says then.
 *
 * It does not say that it is exact, so that no bad verdict may be given before
 * the store was asked once more.  Files in the store's directory change it:
 *
 *     unknown    look-ups fail
 *     hold       no look-up is answered
 *     one        all versions of the store are the same one
 *
 * For "make late", which puts it into the place of ngx_asana_lmdb.
 */


#include "ngx_asana_lmdb.h"

#include <ngx_event.h>


#define LATE  5   /* milliseconds */


typedef struct {
    void                      *data;      /* of LMDB */
    ngx_asana_backend_conf_t  *conf;
    ngx_queue_t                lookups;
    ngx_event_t                timer;
    ngx_queue_t                listings;
    ngx_event_t                slower;
} late_t;


static void *late_create(ngx_asana_backend_conf_t *conf, ngx_log_t *log);
static ngx_int_t late_open(void *backend, ngx_log_t *log);
static void late_close(void *backend);
static uint64_t late_version(void *backend);
static ngx_int_t late_find(void *backend, ngx_asana_lookup_t *lookup,
    ngx_log_t *log);
static void late_cancel(void *backend, ngx_queue_t *q);
static void late_answer(ngx_event_t *ev);
static ngx_int_t late_read(late_t *late, ngx_asana_lookup_t *lookup);
static ngx_uint_t late_file(late_t *late, const char *name);
static void late_change(void *backend, ngx_queue_t *batch, ngx_log_t *log);
static ngx_int_t late_adopt(void *backend, uint64_t *version, ngx_log_t *log);
static ngx_int_t late_list(void *backend, ngx_asana_listing_t *listing,
    ngx_log_t *log);
static void late_listed(ngx_event_t *ev);
static ngx_int_t late_stat(void *backend, ngx_asana_stat_t *stat,
    ngx_log_t *log);
static ngx_int_t late_walk(void *backend, ngx_asana_listing_t *listing,
    ngx_log_t *log);


ngx_asana_backend_t  ngx_asana_late = {
    "lmdb",
    0,
    NULL,
    late_create,
    late_open,
    late_close,
    late_version,
    late_find,
    late_cancel,
    late_change,
    late_adopt,
    late_list,
    late_stat,
    late_walk
};


static void *
late_create(ngx_asana_backend_conf_t *conf, ngx_log_t *log)
{
    late_t  *late;

    late = ngx_calloc(sizeof(late_t), log);
    if (late == NULL) {
        return NULL;
    }

    late->data = ngx_asana_lmdb.create(conf, log);
    late->conf = conf;

    ngx_queue_init(&late->lookups);

    late->timer.data = late;
    late->timer.handler = late_answer;
    late->timer.log = log;

    ngx_queue_init(&late->listings);

    late->slower.data = late;
    late->slower.handler = late_listed;
    late->slower.log = log;

    return late;
}


static ngx_int_t
late_open(void *backend, ngx_log_t *log)
{
    late_t *late = backend;

    return ngx_asana_lmdb.open(late->data, log);
}


static void
late_close(void *backend)
{
    late_t *late = backend;

    if (late->timer.timer_set) {
        ngx_del_timer(&late->timer);
    }

    if (late->slower.timer_set) {
        ngx_del_timer(&late->slower);
    }

    ngx_asana_lmdb.close(late->data);

    ngx_free(late);
}


static uint64_t
late_version(void *backend)
{
    late_t *late = backend;

    uint64_t  version;

    version = ngx_asana_lmdb.version(late->data);

    return (version && late_file(late, "one")) ? 1 : version;
}


static ngx_int_t
late_find(void *backend, ngx_asana_lookup_t *lookup, ngx_log_t *log)
{
    late_t *late = backend;

    /* a version says that it was read */

    lookup->version = 0;

    if (ngx_random() % 2) {
        (void) late_read(late, lookup);
    }

    if (ngx_random() % 2) {
        ngx_queue_insert_head(&late->lookups, &lookup->queue);

    } else {
        ngx_queue_insert_tail(&late->lookups, &lookup->queue);
    }

    if (!late->timer.timer_set) {
        ngx_add_timer(&late->timer, 1 + ngx_random() % LATE);
    }

    return NGX_AGAIN;
}


static void
late_cancel(void *backend, ngx_queue_t *q)
{
    ngx_queue_remove(q);
}


static void
late_answer(ngx_event_t *ev)
{
    late_t *late = ev->data;

    ngx_queue_t         *q;
    ngx_asana_lookup_t  *lookup;

    q = ngx_queue_head(&late->lookups);

    if (q != ngx_queue_sentinel(&late->lookups) && !late_file(late, "hold")) {
        ngx_queue_remove(q);

        lookup = ngx_queue_data(q, ngx_asana_lookup_t, queue);

        lookup->rc = lookup->version ? NGX_OK : late_read(late, lookup);

        lookup->complete(lookup);
    }

    /* the others later still, so that some are cancelled meanwhile */

    if (!ngx_queue_empty(&late->lookups) && !ev->timer_set) {
        ngx_add_timer(ev, ngx_random() % 2);
    }
}


static ngx_int_t
late_read(late_t *late, ngx_asana_lookup_t *lookup)
{
    ngx_int_t  rc;

    if (late_file(late, "unknown")) {
        return NGX_ERROR;
    }

    rc = ngx_asana_lmdb.find(late->data, lookup, ngx_cycle->log);

    if (rc != NGX_OK) {
        lookup->version = 0;

    } else if (late_file(late, "one")) {
        lookup->version = 1;
    }

    return rc;
}


static ngx_uint_t
late_file(late_t *late, const char *name)
{
    u_char  path[NGX_MAX_PATH];

    (void) ngx_snprintf(path, NGX_MAX_PATH, "%V/%s%Z", &late->conf->state,
                        name);

    return access((char *) path, F_OK) == 0;
}


static void
late_change(void *backend, ngx_queue_t *batch, ngx_log_t *log)
{
    late_t *late = backend;

    ngx_asana_lmdb.change(late->data, batch, log);
}


static ngx_int_t
late_adopt(void *backend, uint64_t *version, ngx_log_t *log)
{
    late_t *late = backend;

    return ngx_asana_lmdb.adopt(late->data, version, log);
}


static ngx_int_t
late_list(void *backend, ngx_asana_listing_t *listing, ngx_log_t *log)
{
    late_t *late = backend;

    if (late_version(late) == 0) {
        return ngx_asana_lmdb.list(late->data, listing, log);
    }

    ngx_queue_insert_tail(&late->listings, &listing->queue);

    if (!late->slower.timer_set) {
        ngx_add_timer(&late->slower, LATE);
    }

    return NGX_AGAIN;
}


static void
late_listed(ngx_event_t *ev)
{
    late_t *late = ev->data;

    ngx_queue_t          *q;
    ngx_asana_listing_t  *listing;

    while (!ngx_queue_empty(&late->listings)) {
        q = ngx_queue_head(&late->listings);
        ngx_queue_remove(q);

        listing = ngx_queue_data(q, ngx_asana_listing_t, queue);

        listing->rc = late_file(late, "unknown")
                      ? NGX_ERROR
                      : ngx_asana_lmdb.list(late->data, listing, ev->log);

        listing->complete(listing);
    }
}


static ngx_int_t
late_stat(void *backend, ngx_asana_stat_t *stat, ngx_log_t *log)
{
    late_t *late = backend;

    return ngx_asana_lmdb.stat(late->data, stat, log);
}


static ngx_int_t
late_walk(void *backend, ngx_asana_listing_t *listing, ngx_log_t *log)
{
    late_t *late = backend;

    return late_file(late, "unknown")
           ? NGX_ERROR : ngx_asana_lmdb.walk(late->data, listing, log);
}
