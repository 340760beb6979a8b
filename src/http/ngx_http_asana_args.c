
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_args.h"


#define NGX_HTTP_ASANA_ARGS_LIMIT  100


static const char *ngx_http_asana_args_one(ngx_http_request_t *r,
    ngx_uint_t allowed, u_char *p, u_char *last,
    ngx_http_asana_args_t *args);
static const char *ngx_http_asana_args_values(
    ngx_http_asana_args_t *args);
static ngx_int_t ngx_http_asana_args_unescape(ngx_pool_t *pool,
    u_char *p, u_char *last, ngx_str_t *value);


static ngx_str_t  ngx_http_asana_args_names[] = {
    ngx_string("key"),
    ngx_string("id"),
    ngx_string("after"),
    ngx_string("limit"),
    ngx_string("q"),
    ngx_string("health")
};


/* returns what is wrong with the arguments, or NULL */

const char *
ngx_http_asana_args_read(ngx_http_request_t *r, ngx_uint_t allowed,
    ngx_http_asana_args_t *args)
{
    u_char      *p, *last, *end;
    const char  *error;

    ngx_memzero(args, sizeof(ngx_http_asana_args_t));

    args->limit = NGX_HTTP_ASANA_ARGS_LIMIT;
    args->status = NGX_HTTP_BAD_REQUEST;
    args->health = (1 << NGX_ASANA_HEALTHS) - 1;

    if (r->args.len == 0) {
        return NULL;
    }

    end = r->args.data + r->args.len;

    for (p = r->args.data; p <= end; p = last + 1) {

        last = ngx_strlchr(p, end, '&');

        if (last == NULL) {
            last = end;
        }

        error = ngx_http_asana_args_one(r, allowed, p, last, args);

        if (error) {
            return error;
        }
    }

    return ngx_http_asana_args_values(args);
}


static const char *
ngx_http_asana_args_one(ngx_http_request_t *r, ngx_uint_t allowed,
    u_char *p, u_char *last, ngx_http_asana_args_t *args)
{
    u_char      *eq;
    ngx_int_t    rc;
    ngx_str_t   *name;
    ngx_uint_t   i;

    eq = ngx_strlchr(p, last, '=');

    if (eq == NULL) {
        return "an argument has no value";
    }

    for (i = 0; i < NGX_HTTP_ASANA_ARGS; i++) {

        name = &ngx_http_asana_args_names[i];

        if ((allowed & 1 << i)
            && name->len == (size_t) (eq - p)
            && ngx_strncmp(name->data, p, name->len) == 0)
        {
            break;
        }
    }

    if (i == NGX_HTTP_ASANA_ARGS) {
        return "unknown argument";
    }

    if (args->given & 1 << i) {
        return "an argument is repeated";
    }

    args->given |= 1 << i;

    rc = ngx_http_asana_args_unescape(r->pool, eq + 1, last,
                                      &args->value[i]);

    if (rc == NGX_ERROR) {
        args->status = NGX_HTTP_INTERNAL_SERVER_ERROR;
        return "no memory";
    }

    return (rc == NGX_OK) ? NULL : "bad percent-encoding";
}


static const char *
ngx_http_asana_args_values(ngx_http_asana_args_t *args)
{
    u_char      *p;
    ngx_int_t    n;
    ngx_str_t   *value;
    ngx_uint_t   i;

    for (i = NGX_HTTP_ASANA_ARG_KEY;
         i <= NGX_HTTP_ASANA_ARG_Q;
         i += 2)
    {
        if (!(args->given & 1 << i)) {
            continue;
        }

        value = &args->value[i];

        if (value->len == 0 || value->len > NGX_ASANA_MAX_KEY) {
            return "a key, or a part of it, has 1 to 480 bytes";
        }

        for (p = value->data; p < value->data + value->len; p++) {
            if (*p < ' ' || *p == 0x7f) {
                return "a key has no control characters";
            }
        }
    }

    if (args->given & 1 << NGX_HTTP_ASANA_ARG_LIMIT) {
        value = &args->value[NGX_HTTP_ASANA_ARG_LIMIT];

        args->limit = ngx_atoi(value->data, value->len);

        if (args->limit < 1 || args->limit > 1000) {
            return "\\\"limit\\\" is 1 to 1000";
        }
    }

    if (args->given & 1 << NGX_HTTP_ASANA_ARG_HEALTH) {
        value = &args->value[NGX_HTTP_ASANA_ARG_HEALTH];

        for (i = 0; i < NGX_ASANA_HEALTHS; i++) {

            if (value->len == ngx_asana_health_names[i].len
                && ngx_memcmp(value->data, ngx_asana_health_names[i].data,
                              value->len) == 0)
            {
                break;
            }
        }

        if (i == NGX_ASANA_HEALTHS) {
            return "\\\"health\\\" is ok, new, late, failing, dead or pending";
        }

        args->health = 1 << i;
    }

    if (args->given & 1 << NGX_HTTP_ASANA_ARG_ID) {
        value = &args->value[NGX_HTTP_ASANA_ARG_ID];

        if (value->len != 2 * NGX_ASANA_ID_LEN) {
            return "\\\"id\\\" is 16 hex digits";
        }

        for (i = 0; i < NGX_ASANA_ID_LEN; i++) {

            n = ngx_hextoi(&value->data[2 * i], 2);

            if (n == NGX_ERROR) {
                return "\\\"id\\\" is 16 hex digits";
            }

            args->id[i] = (u_char) n;
        }
    }

    return NULL;
}


/* NGX_DECLINED: the text is wrong */

static ngx_int_t
ngx_http_asana_args_unescape(ngx_pool_t *pool, u_char *p, u_char *last,
    ngx_str_t *value)
{
    u_char     *dst;
    ngx_int_t   n;

    dst = ngx_pnalloc(pool, last - p + 1);
    if (dst == NULL) {
        return NGX_ERROR;
    }

    value->data = dst;

    while (p < last) {

        if (*p != '%') {
            *dst++ = *p++;
            continue;
        }

        if (last - p < 3) {
            return NGX_DECLINED;
        }

        n = ngx_hextoi(p + 1, 2);

        if (n == NGX_ERROR) {
            return NGX_DECLINED;
        }

        *dst++ = (u_char) n;
        p += 3;
    }

    value->len = dst - value->data;

    return NGX_OK;
}
