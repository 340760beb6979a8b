
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_hook.h"


ngx_http_asana_hook_secret_t *
ngx_http_asana_hook_set_push(ngx_http_asana_hook_set_t *set, size_t len)
{
    size_t                         size;
    u_char                        *p;
    ngx_http_asana_hook_secret_t  *s;

    size = ngx_http_asana_hook_secret_size(len);

    if (size > (size_t) (set->end - set->start) - set->size) {

        p = ngx_palloc(set->pool, 2 * (set->size + size));
        if (p == NULL) {
            return NULL;
        }

        if (set->size) {
            ngx_memcpy(p, set->start, set->size);
            ngx_explicit_memzero(set->start, set->size);
        }

        set->start = p;
        set->end = p + 2 * (set->size + size);
    }

    s = (ngx_http_asana_hook_secret_t *) (set->start + set->size);

    ngx_memzero(s, size);
    s->len = (u_char) len;

    set->size += size;
    set->n++;

    return s;
}


ngx_int_t
ngx_http_asana_hook_set_reserve(ngx_http_asana_hook_set_t *set, size_t size)
{
    ngx_http_asana_hook_set_wipe(set);

    set->start = ngx_palloc(set->pool, size);
    if (set->start == NULL) {
        set->end = NULL;
        return NGX_ERROR;
    }

    set->end = set->start + size;

    return NGX_OK;
}


void
ngx_http_asana_hook_set_wipe(ngx_http_asana_hook_set_t *set)
{
    if (set->size) {
        ngx_explicit_memzero(set->start, set->size);
    }

    set->size = 0;
    set->n = 0;
}


void
ngx_http_asana_hook_set_expire(ngx_http_asana_hook_set_t *set, time_t pending)
{
    size_t                         size, left;
    time_t                         now;
    ngx_uint_t                     i, n;
    ngx_http_asana_hook_secret_t  *s, *next;

    n = set->n;
    now = ngx_time();
    left = set->size;
    s = (ngx_http_asana_hook_secret_t *) set->start;

    for (i = 0; i < n; i++) {

        size = ngx_http_asana_hook_secret_size(s->len);
        left -= size;

        if (!s->pending || now - s->created < pending) {
            s = ngx_http_asana_hook_secret_next(s);
            continue;
        }

        next = ngx_http_asana_hook_secret_next(s);

        ngx_memmove(s, next, left);
        ngx_explicit_memzero((u_char *) s + left, size);

        set->size -= size;
        set->n--;
    }
}
