
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_text.h"

#include "ngx_asana_health.h"
#include "ngx_asana_json.h"


#define NGX_HTTP_ASANA_TEXT_BUF  16384
#define NGX_HTTP_ASANA_TEXT_MAX  1024


static void ngx_http_asana_text_row(ngx_http_asana_text_t *out,
    ngx_asana_counters_t *counters, ngx_asana_count_e count);
static void ngx_http_asana_text_webhook(ngx_http_asana_text_t *out,
    ngx_asana_secret_t *s);
static ngx_buf_t *ngx_http_asana_text_buf(ngx_http_asana_text_t *out,
    size_t size);


void
ngx_http_asana_text_counters(ngx_http_asana_text_t *out,
    ngx_asana_counters_t *counters)
{
    ngx_uint_t  i;

    ngx_http_asana_text(out, "\"handshakes\":{");
    ngx_http_asana_text_row(out, counters, NGX_ASANA_COUNT_HANDSHAKES);

    ngx_http_asana_text(out, "},\"deliveries\":{");
    ngx_http_asana_text_row(out, counters, NGX_ASANA_COUNT_DELIVERIES);
    ngx_http_asana_text(out, ",");
    ngx_http_asana_text_row(out, counters, NGX_ASANA_COUNT_DRY_RUNS);

    ngx_http_asana_text(out, "},\"gateway\":{");
    ngx_http_asana_text_row(out, counters, NGX_ASANA_COUNT_GATEWAY);

    ngx_http_asana_text(out, "},\"answers\":{");

    for (i = 0; i < NGX_ASANA_ANSWERS; i++) {
        ngx_http_asana_text(out, "%s\"%s\":%uA", i ? "," : "",
                            ngx_asana_counters_answers[i],
                            counters->answers[i]);
    }

    ngx_http_asana_text(out, "}");
}


static void
ngx_http_asana_text_row(ngx_http_asana_text_t *out,
    ngx_asana_counters_t *counters, ngx_asana_count_e count)
{
    ngx_uint_t   i;
    const char  *comma;

    comma = "";

    for (i = 0; i < NGX_HTTP_ASANA_WORDS; i++) {

        if (!(ngx_http_asana_word_counts[count] & 1 << i)) {
            continue;
        }

        ngx_http_asana_text(out, "%s\"", comma);
        ngx_http_asana_text_word(out, i,
                                 count == NGX_ASANA_COUNT_DRY_RUNS);
        ngx_http_asana_text(out, "\":%uA", counters->count[count][i]);

        comma = ",";
    }
}


void
ngx_http_asana_text_keys(ngx_http_asana_text_t *out,
    ngx_asana_seal_usage_t *usage)
{
    ngx_uint_t  i;

    for (i = 0; i < usage->n; i++) {
        ngx_http_asana_text(out, i ? "," : ",\"keys_used\":[");
        ngx_http_asana_text(out, "{\"id\":\"");
        ngx_http_asana_text_hex(out, usage->keys[i].id, NGX_ASANA_SEAL_ID_LEN);
        ngx_http_asana_text(out, "\",\"secrets\":%uL,\"first\":%s}%s",
                            usage->keys[i].secrets, i ? "false" : "true",
                            (i == usage->n - 1) ? "]" : "");
    }
}


void
ngx_http_asana_text_health(ngx_http_asana_text_t *out,
    ngx_http_asana_zone_conf_t *azcf)
{
    time_t      age, failing;
    ngx_uint_t  i, count[NGX_ASANA_HEALTHS];

    if (ngx_asana_tally(azcf->tally, count, &failing, &age) != NGX_OK) {
        ngx_http_asana_text(out, "\"health\":null,");
        return;
    }

    ngx_http_asana_text(out, "\"health\":{\"age\":%T", age);

    for (i = 0; i < NGX_ASANA_HEALTHS; i++) {
        ngx_http_asana_text(out, ",\"%V\":%ui", &ngx_asana_health_names[i],
                            count[i]);
    }

    ngx_http_asana_text(out, "},");
}


void
ngx_http_asana_text_hook(ngx_http_asana_text_t *out,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *key,
    ngx_asana_secrets_t *secrets)
{
    time_t                         now;
    ngx_uint_t                     i;
    const char                    *state;
    ngx_asana_secret_t  *s;

    now = ngx_time();

    ngx_http_asana_text(out, "{\"key\":\"");
    ngx_http_asana_text_json(out, key);
    ngx_http_asana_text(out, "\",\"ref\":\"");
    ngx_http_asana_text_escaped(out, key);
    ngx_http_asana_text(out, "\",\"health\":\"%V\",\"secrets\":[",
                        &ngx_asana_health_names[
                                     ngx_asana_health_worst(secrets, now)]);

    s = (ngx_asana_secret_t *) secrets->start;

    for (i = 0; i < secrets->n; i++) {

        state = s->pending ? "pending"
                : now - ngx_asana_secret_seen(s) < azcf->store.limits.inactive
                  ? "active" : "inactive";

        ngx_http_asana_text(out, "%s{\"id\":\"", i ? "," : "");
        ngx_http_asana_text_hex(out, s->id, NGX_ASANA_ID_LEN);
        ngx_http_asana_text(out, "\",\"state\":\"%s\",\"health\":\"%V\",",
                            state,
                            &ngx_asana_health_names[ngx_asana_health(s, now)]);
        ngx_http_asana_text_time(out, "created", s->created);
        ngx_http_asana_text_time(out, "verified", s->verified);
        ngx_http_asana_text_time(out, "answered", s->answered);

        if (s->code) {
            ngx_http_asana_text(out, "\"code\":%ui,", (ngx_uint_t) s->code);

        } else {
            ngx_http_asana_text(out, "\"code\":null,");
        }

        ngx_http_asana_text_time(out, "failing_since", s->failing);
        ngx_http_asana_text_time(out, "deleted_at",
                                 s->failing ? s->failing
                                              + NGX_ASANA_HEALTH_FAIL_AFTER
                                            : 0);
        ngx_http_asana_text_webhook(out, s);
        ngx_http_asana_text(out, "\"deliveries\":%ui}", s->deliveries);

        s = ngx_asana_secret_next(s);
    }

    ngx_http_asana_text(out, "]}");
}


static void
ngx_http_asana_text_webhook(ngx_http_asana_text_t *out, ngx_asana_secret_t *s)
{
    ngx_str_t  gid;

    if (s->gid_len == 0) {
        ngx_http_asana_text(out, "\"webhook\":null,");
        return;
    }

    gid.len = s->gid_len;
    gid.data = s->gid;

    ngx_http_asana_text(out, "\"webhook\":\"");
    ngx_http_asana_text_json(out, &gid);
    ngx_http_asana_text(out, "\",");
}


void
ngx_http_asana_text_time(ngx_http_asana_text_t *out, const char *name,
    time_t t)
{
    ngx_tm_t  tm;

    if (t == 0) {
        ngx_http_asana_text(out, "\"%s\":null,", name);
        return;
    }

    ngx_gmtime(t, &tm);

    ngx_http_asana_text(out, "\"%s\":\"%4d-%02d-%02dT%02d:%02d:%02dZ\",",
                        name, tm.ngx_tm_year, tm.ngx_tm_mon,
                        tm.ngx_tm_mday, tm.ngx_tm_hour, tm.ngx_tm_min,
                        tm.ngx_tm_sec);
}


void
ngx_http_asana_text_json(ngx_http_asana_text_t *out, ngx_str_t *text)
{
    size_t      len;
    ngx_buf_t  *b;

    len = ngx_asana_json_escape(NULL, text);

    b = ngx_http_asana_text_buf(out, len);
    if (b == NULL) {
        return;
    }

    (void) ngx_asana_json_escape(b->last, text);

    out->size += len;
    b->last += len;
}


void
ngx_http_asana_text_hex(ngx_http_asana_text_t *out, u_char *p, size_t len)
{
    ngx_buf_t  *b;

    b = ngx_http_asana_text_buf(out, 2 * len);
    if (b == NULL) {
        return;
    }

    b->last = ngx_hex_dump(b->last, p, len);
    out->size += 2 * len;
}


void
ngx_http_asana_text_escaped(ngx_http_asana_text_t *out, ngx_str_t *text)
{
    u_char     *p;
    size_t      len;
    ngx_buf_t  *b;

    len = text->len + 2 * ngx_escape_uri(NULL, text->data, text->len,
                                         NGX_ESCAPE_URI_COMPONENT);

    b = ngx_http_asana_text_buf(out, len);
    if (b == NULL) {
        return;
    }

    p = (u_char *) ngx_escape_uri(b->last, text->data, text->len,
                                  NGX_ESCAPE_URI_COMPONENT);

    out->size += p - b->last;
    b->last = p;
}


void
ngx_http_asana_text_word(ngx_http_asana_text_t *out,
    ngx_http_asana_word_e word, ngx_uint_t dry_run)
{
    ngx_str_t   text;
    ngx_buf_t  *b;

    ngx_http_asana_word(&text, word, dry_run);

    b = ngx_http_asana_text_buf(out, text.len);
    if (b == NULL) {
        return;
    }

    ngx_strlow(b->last, text.data, text.len);

    out->size += text.len;
    b->last += text.len;
}


void
ngx_http_asana_text(ngx_http_asana_text_t *out, const char *fmt, ...)
{
    u_char     *p;
    va_list     args;
    ngx_buf_t  *b;

    b = ngx_http_asana_text_buf(out, NGX_HTTP_ASANA_TEXT_MAX);
    if (b == NULL) {
        return;
    }

    va_start(args, fmt);
    p = ngx_vslprintf(b->last, b->end, fmt, args);
    va_end(args);

    out->size += p - b->last;
    b->last = p;
}


void
ngx_http_asana_text_string(ngx_http_asana_text_t *out, ngx_str_t *text)
{
    ngx_buf_t  *b;

    b = ngx_http_asana_text_buf(out, text->len);

    if (b) {
        b->last = ngx_cpymem(b->last, text->data, text->len);
        out->size += text->len;
    }
}


/* the last buffer with room for size bytes, or a new one */

static ngx_buf_t *
ngx_http_asana_text_buf(ngx_http_asana_text_t *out, size_t size)
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
    b = ngx_create_temp_buf(out->pool, ngx_max(size, NGX_HTTP_ASANA_TEXT_BUF));

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
