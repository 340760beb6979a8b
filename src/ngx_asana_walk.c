
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_asana_walk.h"


static ngx_int_t ngx_asana_walk_visit(ngx_asana_listing_t *listing,
    ngx_str_t *key, ngx_asana_secrets_t *secrets);
static ngx_uint_t ngx_asana_walk_has_text(ngx_asana_walk_t *walk,
    ngx_str_t *key);
static ngx_int_t ngx_asana_walk_keep(ngx_asana_walk_t *walk, ngx_str_t *key,
    ngx_asana_secrets_t *secrets);
static void ngx_asana_walk_release(ngx_asana_task_t *task);


ngx_asana_task_t *
ngx_asana_walk_create(ngx_str_t *after, ngx_str_t *text, ngx_log_t *log)
{
    ngx_asana_task_t  *task;
    ngx_asana_walk_t  *walk;

    task = ngx_asana_task_create(NGX_ASANA_WALK, after, log);
    if (task == NULL) {
        return NULL;
    }

    walk = ngx_calloc(sizeof(ngx_asana_walk_t), log);
    if (walk == NULL) {
        ngx_asana_task_free(task);
        return NULL;
    }

    walk->listing.after = task->key;
    walk->listing.limit = NGX_ASANA_WALK_KEYS;
    walk->listing.visit = ngx_asana_walk_visit;

    if (text) {
        walk->text.len = text->len;
        walk->text.data = walk->buf;
        ngx_memcpy(walk->buf, text->data, text->len);
    }

    ngx_queue_init(&walk->found);

    task->walk = walk;
    task->release = ngx_asana_walk_release;

    return task;
}


static ngx_int_t
ngx_asana_walk_visit(ngx_asana_listing_t *listing, ngx_str_t *key,
    ngx_asana_secrets_t *secrets)
{
    ngx_asana_walk_t *walk = (ngx_asana_walk_t *) listing;

    ngx_asana_health_e  health;

    listing->limit--;
    listing->after.len = key->len;
    ngx_memcpy(listing->after.data, key->data, key->len);

    ngx_asana_secrets_settle(secrets, walk->now, walk->pending);

    if (secrets->n) {
        walk->merge(walk->data, key, secrets);

        health = ngx_asana_health_worst(secrets, walk->now);
        walk->count[health]++;

        if (health == NGX_ASANA_HEALTH_FAILING) {
            walk->failing = ngx_min(walk->failing,
                                    ngx_asana_health_since(secrets, walk->now));
        }

        if (walk->limit
            && (walk->health & 1 << health)
            && ngx_asana_walk_has_text(walk, key))
        {
            if (ngx_asana_walk_keep(walk, key, secrets) != NGX_OK) {
                return NGX_ERROR;
            }

            if (--walk->limit == 0) {
                return NGX_DONE;
            }
        }
    }

    return listing->limit ? NGX_OK : NGX_DONE;
}


static ngx_uint_t
ngx_asana_walk_has_text(ngx_asana_walk_t *walk, ngx_str_t *key)
{
    u_char  *p, *last;
    size_t   len;

    len = walk->text.len;

    if (len == 0) {
        return 1;
    }

    if (len > key->len) {
        return 0;
    }

    last = key->data + key->len - len;

    for (p = key->data; p <= last; p++) {
        if (ngx_memcmp(p, walk->text.data, len) == 0) {
            return 1;
        }
    }

    return 0;
}


/* nobody is shown the texts, so they need not leave the thread */

static ngx_int_t
ngx_asana_walk_keep(ngx_asana_walk_t *walk, ngx_str_t *key,
    ngx_asana_secrets_t *secrets)
{
    u_char                  *p;
    ngx_uint_t               i;
    ngx_asana_secret_t      *s;
    ngx_asana_walk_found_t  *found;

    s = ngx_asana_secrets_first(secrets);

    for (i = 0; i < secrets->n; i++) {
        ngx_explicit_memzero(s->data, s->len);
        s = ngx_asana_secret_next(s);
    }

    /* all of it in one piece; the secrets are aligned */

    found = ngx_alloc(sizeof(ngx_asana_walk_found_t) + secrets->size
                      + key->len, ngx_cycle->log);
    if (found == NULL) {
        return NGX_ERROR;
    }

    p = (u_char *) found + sizeof(ngx_asana_walk_found_t);

    ngx_asana_secrets_init(&found->secrets, p, secrets->size);
    found->secrets.size = secrets->size;
    found->secrets.n = secrets->n;

    found->key.len = key->len;
    found->key.data = ngx_cpymem(p, secrets->start, secrets->size);
    ngx_memcpy(found->key.data, key->data, key->len);

    ngx_queue_insert_tail(&walk->found, &found->queue);

    return NGX_OK;
}


static void
ngx_asana_walk_release(ngx_asana_task_t *task)
{
    ngx_queue_t       *q;
    ngx_asana_walk_t  *walk;

    walk = task->walk;

    while (!ngx_queue_empty(&walk->found)) {
        q = ngx_queue_head(&walk->found);
        ngx_queue_remove(q);
        ngx_free(ngx_queue_data(q, ngx_asana_walk_found_t, queue));
    }

    ngx_free(walk);
}
