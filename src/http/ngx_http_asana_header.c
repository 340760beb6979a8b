
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * Request headers.  Subrequests have the elements of nginx's list in common
 * with the main request, and pointers lead to them: no element is changed or
 * moved.  A request gets a chain of parts of its own that leaves some out:
 *
 *     main request   [ Host | X-Asana-Hook-Status | Cookie ] -> ...
 *     subrequest     [ Host ] -> [ Cookie ] -> ...
 */


#include "ngx_http_asana_header.h"


#define NGX_HTTP_ASANA_HEADERS  4


static ngx_uint_t ngx_http_asana_header_is(ngx_table_elt_t *header,
    ngx_str_t *name);
static ngx_uint_t ngx_http_asana_header_count(ngx_http_request_t *r,
    ngx_str_t *name, ngx_uint_t *parts);


ngx_str_t  ngx_http_asana_header_secret = ngx_string("x-hook-secret");
ngx_str_t  ngx_http_asana_header_signature = ngx_string("x-hook-signature");
ngx_str_t  ngx_http_asana_header_status = ngx_string("x-asana-hook-status");

static ngx_uint_t  ngx_http_asana_header_hash;


void
ngx_http_asana_header_read(ngx_http_request_t *r,
    ngx_http_asana_header_t *h)
{
    ngx_str_t        *name;
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *header;

    ngx_memzero(h, sizeof(ngx_http_asana_header_t));

    for (part = &r->headers_in.headers.part; part; part = part->next) {
        header = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (header[i].hash == 0) {
                continue;
            }

            name = &header[i].key;

            if (name->len == ngx_http_asana_header_secret.len
                && ngx_strncmp(header[i].lowcase_key,
                               ngx_http_asana_header_secret.data, name->len)
                   == 0)
            {
                h->secrets++;
                h->secret = header[i].value;

            } else if (name->len == ngx_http_asana_header_signature.len
                       && ngx_strncmp(header[i].lowcase_key,
                                      ngx_http_asana_header_signature.data,
                                      name->len)
                          == 0)
            {
                h->signatures++;
                h->signature = header[i].value;
            }
        }
    }
}


/*
 * What CGI makes of a name has "_" for "-"; PHP does the same with other
 * characters, which "ignore_invalid_headers off" lets in.
 */

static ngx_uint_t
ngx_http_asana_header_is(ngx_table_elt_t *header, ngx_str_t *name)
{
    u_char      ch;
    ngx_uint_t  i;

    if (header->key.len != name->len) {
        return 0;
    }

    for (i = 0; i < name->len; i++) {
        ch = ngx_tolower(header->key.data[i]);

        if (ch == name->data[i]) {
            continue;
        }

        if (name->data[i] != '-'
            || (ch >= 'a' && ch <= 'z')
            || (ch >= '0' && ch <= '9'))
        {
            return 0;
        }
    }

    return 1;
}


static ngx_uint_t
ngx_http_asana_header_count(ngx_http_request_t *r, ngx_str_t *name,
    ngx_uint_t *parts)
{
    ngx_uint_t        i, n;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *header;

    n = 0;
    *parts = 0;

    for (part = &r->headers_in.headers.part; part; part = part->next) {
        header = part->elts;
        (*parts)++;

        for (i = 0; i < part->nelts; i++) {
            n += ngx_http_asana_header_is(&header[i], name);
        }
    }

    return n;
}


ngx_int_t
ngx_http_asana_header_hide(ngx_http_request_t *r, ngx_str_t *name)
{
    ngx_uint_t        found, i, n, open;
    ngx_list_t       *list;
    ngx_list_part_t  *part, *run;
    ngx_table_elt_t  *header;

    found = ngx_http_asana_header_count(r, name, &n);

    if (found == 0) {
        return NGX_OK;
    }

    list = &r->headers_in.headers;

    run = ngx_palloc(r->pool, (n + found) * sizeof(ngx_list_part_t));
    if (run == NULL) {
        return NGX_ERROR;
    }

    n = 0;

    for (part = &list->part; part; part = part->next) {
        header = part->elts;
        open = 0;

        for (i = 0; i < part->nelts; i++) {

            if (ngx_http_asana_header_is(&header[i], name)) {
                open = 0;
                continue;
            }

            /* nginx expects no part without an element but the first */

            if (!open) {
                run[n].elts = &header[i];
                run[n].nelts = 0;
                run[n].next = NULL;

                if (n) {
                    run[n - 1].next = &run[n];
                }

                n++;
                open = 1;
            }

            run[n - 1].nelts++;
        }
    }

    if (n == 0) {
        return ngx_list_init(list, r->pool, NGX_HTTP_ASANA_HEADERS,
                             sizeof(ngx_table_elt_t));
    }

    list->part = run[0];
    list->last = (n == 1) ? &list->part : &run[n - 1];

    /* the next one that is added goes to a part of its own */
    list->nalloc = list->last->nelts;

    return NGX_OK;
}


void
ngx_http_asana_header_init(void)
{
    ngx_str_t *name = &ngx_http_asana_header_status;

    ngx_http_asana_header_hash = ngx_hash_key(name->data, name->len);
}


ngx_int_t
ngx_http_asana_header_set(ngx_http_request_t *r, ngx_str_t *value)
{
    ngx_list_t       *list;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    /* not in a part that a subrequest has in common with this request */

    part = ngx_palloc(r->pool,
                      sizeof(ngx_list_part_t) + sizeof(ngx_table_elt_t));
    if (part == NULL) {
        return NGX_ERROR;
    }

    h = (ngx_table_elt_t *) &part[1];

    part->elts = h;
    part->nelts = 1;
    part->next = NULL;

    list = &r->headers_in.headers;

    if (list->last == NULL || list->last->nelts == 0) {

        /* no header at all, as in HTTP/0.9 */

        list->part = *part;
        list->last = &list->part;

    } else {
        list->last->next = part;
        list->last = part;
    }

    list->pool = r->pool;
    list->size = sizeof(ngx_table_elt_t);
    list->nalloc = 1;

    ngx_str_set(&h->key, "X-Asana-Hook-Status");
    h->value = *value;
    h->lowcase_key = ngx_http_asana_header_status.data;
    h->hash = ngx_http_asana_header_hash;
#if (nginx_version >= 1023000)
    h->next = NULL;
#endif

    return NGX_OK;
}


ngx_int_t
ngx_http_asana_header_add(ngx_http_request_t *r, const char *name,
    ngx_str_t *value)
{
    ngx_table_elt_t  *h;

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    h->hash = 1;
#if (nginx_version >= 1023000)
    h->next = NULL;
#endif
    h->key.data = (u_char *) name;
    h->key.len = ngx_strlen(name);
    h->value = *value;

    return NGX_OK;
}
