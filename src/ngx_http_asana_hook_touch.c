
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * Deliveries that were verified: counted in the zone, once for each turn of
 * the event loop, and now and then written back to the store.
 */


#include "ngx_http_asana_hook.h"


#define NGX_HTTP_ASANA_HOOK_TOUCHES     16
#define NGX_HTTP_ASANA_HOOK_WRITE_BACK  3600


typedef struct {
    uint32_t                       hash;
    ngx_uint_t                     deliveries;
    time_t                         stored;     /* as the store has it */
    size_t                         len;
    u_char                         id[NGX_HTTP_ASANA_HOOK_ID_LEN];
    u_char                         key[NGX_HTTP_ASANA_HOOK_MAX_KEY];
} ngx_http_asana_hook_touch_t;


/* deliveries verified by this worker in this turn of the event loop */

struct ngx_http_asana_hook_touches_s {
    ngx_event_t                    event;
    ngx_uint_t                     n;
    ngx_http_asana_hook_touch_t    touch[NGX_HTTP_ASANA_HOOK_TOUCHES];
};


/* seconds between two times that are written back */

#define ngx_http_asana_hook_interval(zone)                                    \
    ngx_min(NGX_HTTP_ASANA_HOOK_WRITE_BACK, (zone)->inactive / 2)


static void ngx_http_asana_hook_zone_flush_handler(ngx_event_t *ev);
static ngx_uint_t ngx_http_asana_hook_zone_account(
    ngx_http_asana_hook_zone_t *zone, ngx_http_asana_hook_touch_t *touch,
    time_t now);
static void ngx_http_asana_hook_zone_write_back(
    ngx_http_asana_hook_zone_t *zone, ngx_http_asana_hook_touch_t *touch,
    time_t now, ngx_log_t *log);
static void ngx_http_asana_hook_zone_written(ngx_http_asana_hook_op_t *op);


ngx_int_t
ngx_http_asana_hook_zone_touches(ngx_http_asana_hook_zone_t *zone,
    ngx_cycle_t *cycle)
{
    zone->touches = ngx_pcalloc(cycle->pool,
                                sizeof(ngx_http_asana_hook_touches_t));
    if (zone->touches == NULL) {
        return NGX_ERROR;
    }

    zone->touches->event.data = zone;
    zone->touches->event.handler = ngx_http_asana_hook_zone_flush_handler;
    zone->touches->event.log = cycle->log;

    return NGX_OK;
}


void
ngx_http_asana_hook_zone_touch(ngx_http_asana_hook_zone_t *zone,
    ngx_str_t *key, uint32_t hash, ngx_http_asana_hook_secret_t *s,
    ngx_log_t *log)
{
    ngx_uint_t                      i;
    ngx_http_asana_hook_touch_t    *touch;
    ngx_http_asana_hook_touches_t  *touches;

    touches = zone->touches;

    for (i = 0; i < touches->n; i++) {
        touch = &touches->touch[i];

        if (touch->hash == hash
            && touch->len == key->len
            && ngx_memcmp(touch->id, s->id, NGX_HTTP_ASANA_HOOK_ID_LEN) == 0
            && ngx_memcmp(touch->key, key->data, key->len) == 0)
        {
            touch->deliveries++;
            return;
        }
    }

    if (touches->n == NGX_HTTP_ASANA_HOOK_TOUCHES) {
        ngx_http_asana_hook_zone_flush(zone, log);
    }

    touch = &touches->touch[touches->n++];

    touch->hash = hash;
    touch->deliveries = 1;
    touch->stored = s->stored;
    touch->len = key->len;
    ngx_memcpy(touch->id, s->id, NGX_HTTP_ASANA_HOOK_ID_LEN);
    ngx_memcpy(touch->key, key->data, key->len);

    ngx_post_event(&touches->event, &ngx_posted_events);
}


static void
ngx_http_asana_hook_zone_flush_handler(ngx_event_t *ev)
{
    ngx_http_asana_hook_zone_flush(ev->data, ev->log);
}


void
ngx_http_asana_hook_zone_flush(ngx_http_asana_hook_zone_t *zone,
    ngx_log_t *log)
{
    time_t                          now;
    ngx_uint_t                      i, due;
    ngx_http_asana_hook_touches_t  *touches;

    touches = zone->touches;

    if (touches->n == 0) {
        return;
    }

    due = 0;
    now = ngx_time();

    ngx_shmtx_lock(&zone->shpool->mutex);

    for (i = 0; i < touches->n; i++) {
        if (ngx_http_asana_hook_zone_account(zone, &touches->touch[i], now)) {
            due |= (ngx_uint_t) 1 << i;
        }
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);

    for (i = 0; due; due >>= 1, i++) {
        if (due & 1) {
            ngx_http_asana_hook_zone_write_back(zone, &touches->touch[i], now,
                                                log);
        }
    }

    touches->n = 0;
}


/*
 * Returns 1 if the time is to be written back: at the first delivery, for it
 * proves the secret, and then often enough that a restart does not take an
 * active secret for an inactive one.
 */

static ngx_uint_t
ngx_http_asana_hook_zone_account(ngx_http_asana_hook_zone_t *zone,
    ngx_http_asana_hook_touch_t *touch, time_t now)
{
    time_t                         interval;
    ngx_str_t                      key;
    ngx_http_asana_hook_entry_t   *entry;
    ngx_http_asana_hook_secret_t  *s;

    key.len = touch->len;
    key.data = touch->key;

    interval = ngx_http_asana_hook_interval(zone);

    s = NULL;
    entry = ngx_http_asana_hook_zone_lookup(zone, &key, touch->hash);

    if (entry) {
        s = ngx_http_asana_hook_zone_secret(
                                ngx_http_asana_hook_entry_records(entry),
                                entry->n, touch->id);
    }

    if (s == NULL) {
        return now - touch->stored >= interval;
    }

    s->deliveries += touch->deliveries;
    s->verified = ngx_max(s->verified, now);

    if (s->stored && s->verified - s->stored < interval) {
        return 0;
    }

    /* claimed: no other worker writes it as well */
    s->stored = s->verified;

    return 1;
}


static void
ngx_http_asana_hook_zone_write_back(ngx_http_asana_hook_zone_t *zone,
    ngx_http_asana_hook_touch_t *touch, time_t now, ngx_log_t *log)
{
    ngx_str_t                  key;
    ngx_http_asana_hook_op_t  *op;

    key.len = touch->len;
    key.data = touch->key;

    op = ngx_http_asana_hook_zone_op(zone, NGX_HTTP_ASANA_HOOK_TOUCH, &key,
                                     NULL, log);
    if (op == NULL) {
        return;
    }

    op->now = now;
    op->handler = ngx_http_asana_hook_zone_written;
    op->data = zone;
    ngx_memcpy(op->id, touch->id, NGX_HTTP_ASANA_HOOK_ID_LEN);

    if (ngx_http_asana_hook_store_post(zone->store, op) == NGX_OK) {
        ngx_http_asana_hook_zone_written(op);
    }
}


/*
 * A time that the store did not take is claimed again soon, or a secret that
 * has verified a delivery would pass for one that never did.
 */

static void
ngx_http_asana_hook_zone_written(ngx_http_asana_hook_op_t *op)
{
    ngx_http_asana_hook_zone_t *zone = op->data;

    time_t                         interval;
    uint32_t                       hash;
    ngx_str_t                      key;
    ngx_http_asana_hook_entry_t   *entry;
    ngx_http_asana_hook_secret_t  *s;

    if (op->rc == NGX_OK || op->rc == NGX_DECLINED) {
        ngx_http_asana_hook_op_free(op);
        return;
    }

    key.len = op->key_len;
    key.data = op->key;

    s = NULL;
    hash = ngx_hash_key(key.data, key.len);
    interval = ngx_http_asana_hook_interval(zone);

    ngx_shmtx_lock(&zone->shpool->mutex);

    entry = ngx_http_asana_hook_zone_lookup(zone, &key, hash);

    if (entry) {
        s = ngx_http_asana_hook_zone_secret(
                                ngx_http_asana_hook_entry_records(entry),
                                entry->n, op->id);
    }

    if (s && s->stored >= op->now) {
        s->stored = op->now - interval + interval / 60;
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);

    ngx_http_asana_hook_op_free(op);
}
