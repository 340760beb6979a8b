
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_hook.h"


#define NGX_HTTP_ASANA_HOOK_OUT   16384
#define NGX_HTTP_ASANA_HOOK_TEXT  1024


static void ngx_http_asana_hook_out_time(ngx_http_asana_hook_out_t *out,
    const char *name, time_t t);
static size_t ngx_http_asana_hook_out_utf8(u_char *p, u_char *last);
static ngx_buf_t *ngx_http_asana_hook_out_buf(ngx_http_asana_hook_out_t *out,
    size_t size);


void
ngx_http_asana_hook_out_counters(ngx_http_asana_hook_out_t *out,
    ngx_http_asana_hook_counters_t *counters)
{
    ngx_uint_t  i;

    ngx_http_asana_hook_out(out, "\"handshakes\":{");

    for (i = NGX_HTTP_ASANA_HOOK_HANDSHAKE; i < NGX_HTTP_ASANA_HOOK_BYPASS;
         i++)
    {
        if (i > NGX_HTTP_ASANA_HOOK_REFUSED
            && i < NGX_HTTP_ASANA_HOOK_MALFORMED)
        {
            continue;
        }

        ngx_http_asana_hook_out(out, "\"");
        ngx_http_asana_hook_out_word(out, i, 0);
        ngx_http_asana_hook_out(out, "\":%uA%s", counters->handshakes[i],
                                i == NGX_HTTP_ASANA_HOOK_ERROR ? "" : ",");
    }

    ngx_http_asana_hook_out(out, "},\"deliveries\":{");

    for (i = NGX_HTTP_ASANA_HOOK_VERIFIED; i < NGX_HTTP_ASANA_HOOK_BYPASS; i++)
    {
        ngx_http_asana_hook_out(out, "\"");
        ngx_http_asana_hook_out_word(out, i, 0);
        ngx_http_asana_hook_out(out, "\":%uA,", counters->deliveries[i]);
    }

    for (i = NGX_HTTP_ASANA_HOOK_PENDING; i < NGX_HTTP_ASANA_HOOK_BYPASS; i++)
    {
        ngx_http_asana_hook_out(out, "\"");
        ngx_http_asana_hook_out_word(out, i, 1);
        ngx_http_asana_hook_out(out, "\":%uA%s", counters->dry_run[i],
                                i == NGX_HTTP_ASANA_HOOK_ERROR ? "" : ",");
    }

    ngx_http_asana_hook_out(out, "}");
}


void
ngx_http_asana_hook_out_hook(ngx_http_asana_hook_out_t *out,
    ngx_http_asana_hook_zone_t *zone, ngx_str_t *key,
    ngx_http_asana_hook_set_t *set)
{
    u_char                         id[2 * NGX_HTTP_ASANA_HOOK_ID_LEN];
    time_t                         now;
    ngx_uint_t                     i;
    const char                    *state;
    ngx_http_asana_hook_secret_t  *s;

    now = ngx_time();

    ngx_http_asana_hook_out(out, "{\"key\":\"");
    ngx_http_asana_hook_out_json(out, key);
    ngx_http_asana_hook_out(out, "\",\"ref\":\"");
    ngx_http_asana_hook_out_escaped(out, key);
    ngx_http_asana_hook_out(out, "\",\"secrets\":[");

    s = (ngx_http_asana_hook_secret_t *) set->start;

    for (i = 0; i < set->n; i++) {

        state = s->pending ? "pending"
                : now - ngx_http_asana_hook_secret_seen(s) < zone->inactive
                  ? "active" : "inactive";

        (void) ngx_hex_dump(id, s->id, NGX_HTTP_ASANA_HOOK_ID_LEN);

        ngx_http_asana_hook_out(out, "%s{\"id\":\"%*s\",\"state\":\"%s\",",
                                i ? "," : "", sizeof(id), id, state);
        ngx_http_asana_hook_out_time(out, "created", s->created);
        ngx_http_asana_hook_out_time(out, "verified", s->verified);
        ngx_http_asana_hook_out(out, "\"deliveries\":%ui}", s->deliveries);

        s = ngx_http_asana_hook_secret_next(s);
    }

    ngx_http_asana_hook_out(out, "]}");
}


static void
ngx_http_asana_hook_out_time(ngx_http_asana_hook_out_t *out, const char *name,
    time_t t)
{
    ngx_tm_t  tm;

    if (t == 0) {
        ngx_http_asana_hook_out(out, "\"%s\":null,", name);
        return;
    }

    ngx_gmtime(t, &tm);

    ngx_http_asana_hook_out(out, "\"%s\":\"%4d-%02d-%02dT%02d:%02d:%02dZ\",",
                            name, tm.ngx_tm_year, tm.ngx_tm_mon,
                            tm.ngx_tm_mday, tm.ngx_tm_hour, tm.ngx_tm_min,
                            tm.ngx_tm_sec);
}


/* the content of a JSON string; what is not UTF-8 becomes U+FFFD */

void
ngx_http_asana_hook_out_json(ngx_http_asana_hook_out_t *out, ngx_str_t *text)
{
    u_char  *p, *last;
    size_t   n;

    last = text->data + text->len;

    for (p = text->data; p < last; p += n) {

        n = ngx_http_asana_hook_out_utf8(p, last);

        if (n == 0) {
            n = 1;
            ngx_http_asana_hook_out(out, "\\ufffd");

        } else if (*p < ' ' || *p == 0x7f) {
            ngx_http_asana_hook_out(out, "\\u%04xd", (int) *p);

        } else if (*p == '"' || *p == '\\') {
            ngx_http_asana_hook_out(out, "\\%c", *p);

        } else {
            ngx_http_asana_hook_out(out, "%*s", n, p);
        }
    }
}


/*
 * The length of the character at p (RFC 3629, 4), 0 if it is none:
 * ngx_utf8_decode() knows no ASCII, and lets pass what is malformed.
 */

static size_t
ngx_http_asana_hook_out_utf8(u_char *p, u_char *last)
{
    u_char  c, low, high;
    size_t  i, n;

    c = *p;

    if (c < 0x80) {
        return 1;
    }

    if (c < 0xc2 || c > 0xf4) {
        return 0;
    }

    n = (c < 0xe0) ? 2 : (c < 0xf0) ? 3 : 4;

    if ((size_t) (last - p) < n) {
        return 0;
    }

    /* neither overlong, nor surrogates, nor above U+10FFFF */

    low = (c == 0xe0) ? 0xa0 : (c == 0xf0) ? 0x90 : 0x80;
    high = (c == 0xed) ? 0x9f : (c == 0xf4) ? 0x8f : 0xbf;

    for (i = 1; i < n; i++) {

        if (p[i] < low || p[i] > high) {
            return 0;
        }

        low = 0x80;
        high = 0xbf;
    }

    return n;
}


void
ngx_http_asana_hook_out_escaped(ngx_http_asana_hook_out_t *out,
    ngx_str_t *text)
{
    u_char     *p;
    size_t      len;
    ngx_buf_t  *b;

    len = text->len + 2 * ngx_escape_uri(NULL, text->data, text->len,
                                         NGX_ESCAPE_URI_COMPONENT);

    b = ngx_http_asana_hook_out_buf(out, len);
    if (b == NULL) {
        return;
    }

    p = (u_char *) ngx_escape_uri(b->last, text->data, text->len,
                                  NGX_ESCAPE_URI_COMPONENT);

    out->size += p - b->last;
    b->last = p;
}


void
ngx_http_asana_hook_out_word(ngx_http_asana_hook_out_t *out, ngx_uint_t word,
    ngx_uint_t dry_run)
{
    size_t      len;
    ngx_buf_t  *b;

    len = ngx_http_asana_hook_words[word].len;

    if (!dry_run) {
        len -= sizeof(NGX_HTTP_ASANA_HOOK_DRY_RUN) - 1;
    }

    b = ngx_http_asana_hook_out_buf(out, len);
    if (b == NULL) {
        return;
    }

    ngx_strlow(b->last, ngx_http_asana_hook_words[word].data, len);

    out->size += len;
    b->last += len;
}


void
ngx_http_asana_hook_out(ngx_http_asana_hook_out_t *out, const char *fmt, ...)
{
    u_char     *p;
    va_list     args;
    ngx_buf_t  *b;

    b = ngx_http_asana_hook_out_buf(out, NGX_HTTP_ASANA_HOOK_TEXT);
    if (b == NULL) {
        return;
    }

    va_start(args, fmt);
    p = ngx_vslprintf(b->last, b->end, fmt, args);
    va_end(args);

    out->size += p - b->last;
    b->last = p;
}


/* the last buffer with room for size bytes, or a new one */

static ngx_buf_t *
ngx_http_asana_hook_out_buf(ngx_http_asana_hook_out_t *out, size_t size)
{
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    if (out->last) {
        b = out->last->buf;

        if ((size_t) (b->end - b->last) >= size) {
            return b;
        }
    }

    cl = ngx_alloc_chain_link(out->pool);
    b = ngx_create_temp_buf(out->pool, ngx_max(size, NGX_HTTP_ASANA_HOOK_OUT));

    if (cl == NULL || b == NULL) {
        out->failed = 1;
        return NULL;
    }

    cl->buf = b;
    cl->next = NULL;

    if (out->last) {
        out->last->next = cl;

    } else {
        out->head = cl;
    }

    out->last = cl;

    return b;
}
