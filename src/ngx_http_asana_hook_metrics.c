
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_hook.h"


static void ngx_http_asana_hook_metrics_head(ngx_http_asana_hook_out_t *out,
    const char *name, const char *type, const char *help);
static void ngx_http_asana_hook_metrics_words(ngx_http_asana_hook_out_t *out,
    ngx_str_t *zone, const char *name, ngx_atomic_t *counters,
    ngx_uint_t first, ngx_uint_t last, ngx_uint_t dry_run);
static void ngx_http_asana_hook_metrics_zone(ngx_http_asana_hook_out_t *out,
    ngx_http_asana_hook_zone_t *zone, ngx_str_t *name);
static void ngx_http_asana_hook_metrics_store(ngx_http_asana_hook_out_t *out,
    ngx_http_asana_hook_zone_t *zone, ngx_str_t *name,
    ngx_http_asana_hook_stat_t *stat);
static void ngx_http_asana_hook_metrics_commits(
    ngx_http_asana_hook_out_t *out, ngx_http_asana_hook_commits_t *commits,
    ngx_str_t *name);
static ngx_int_t ngx_http_asana_hook_metrics_label(ngx_pool_t *pool,
    ngx_str_t *dst, ngx_str_t *src);


ngx_uint_t  ngx_http_asana_hook_bounds[NGX_HTTP_ASANA_HOOK_BUCKETS] = {
    100, 250, 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000,
    500000, 1000000, 2500000
};


void
ngx_http_asana_hook_metrics(ngx_http_asana_hook_out_t *out,
    ngx_http_asana_hook_zone_t *zone, ngx_http_asana_hook_stat_t *stat)
{
    ngx_str_t                        name;
    ngx_http_asana_hook_counters_t  *counters;

    counters = zone->counters;

    if (ngx_http_asana_hook_metrics_label(out->pool, &name, &zone->name)
        != NGX_OK)
    {
        out->failed = 1;
        return;
    }

    ngx_http_asana_hook_metrics_head(out, "handshakes_total", "counter",
                                     "Handshakes by their outcome.");
    ngx_http_asana_hook_metrics_words(out, &name, "handshakes_total",
                                      counters->handshakes,
                                      NGX_HTTP_ASANA_HOOK_HANDSHAKE,
                                      NGX_HTTP_ASANA_HOOK_REFUSED, 0);
    ngx_http_asana_hook_metrics_words(out, &name, "handshakes_total",
                                      counters->handshakes,
                                      NGX_HTTP_ASANA_HOOK_MALFORMED,
                                      NGX_HTTP_ASANA_HOOK_ERROR, 0);

    ngx_http_asana_hook_metrics_head(out, "deliveries_total", "counter",
                                     "Deliveries by their outcome.");
    ngx_http_asana_hook_metrics_words(out, &name, "deliveries_total",
                                      counters->deliveries,
                                      NGX_HTTP_ASANA_HOOK_VERIFIED,
                                      NGX_HTTP_ASANA_HOOK_ERROR, 0);
    ngx_http_asana_hook_metrics_words(out, &name, "deliveries_total",
                                      counters->dry_run,
                                      NGX_HTTP_ASANA_HOOK_PENDING,
                                      NGX_HTTP_ASANA_HOOK_ERROR, 1);

    if (zone->gateway) {
        ngx_http_asana_hook_metrics_head(out, "creates_total", "counter",
                                         "Create calls that Asana answered "
                                         "with 201, by their outcome.");
        ngx_http_asana_hook_metrics_words(out, &name, "creates_total",
                                          counters->creates,
                                          NGX_HTTP_ASANA_HOOK_REGISTERED,
                                          NGX_HTTP_ASANA_HOOK_REGISTERED, 0);
        ngx_http_asana_hook_metrics_words(out, &name, "creates_total",
                                          counters->creates,
                                          NGX_HTTP_ASANA_HOOK_UNKNOWN,
                                          NGX_HTTP_ASANA_HOOK_UNKNOWN, 0);
        ngx_http_asana_hook_metrics_words(out, &name, "creates_total",
                                          counters->creates,
                                          NGX_HTTP_ASANA_HOOK_MALFORMED,
                                          NGX_HTTP_ASANA_HOOK_ERROR, 0);
    }

    ngx_http_asana_hook_metrics_zone(out, zone, &name);
    ngx_http_asana_hook_metrics_store(out, zone, &name, stat);
    ngx_http_asana_hook_metrics_commits(out, &counters->commits, &name);
}


static void
ngx_http_asana_hook_metrics_head(ngx_http_asana_hook_out_t *out,
    const char *name, const char *type, const char *help)
{
    ngx_http_asana_hook_out(out,
                            "# HELP asana_hook_%s %s\n"
                            "# TYPE asana_hook_%s %s\n",
                            name, help, name, type);
}


static void
ngx_http_asana_hook_metrics_words(ngx_http_asana_hook_out_t *out,
    ngx_str_t *zone, const char *name, ngx_atomic_t *counters,
    ngx_uint_t first, ngx_uint_t last, ngx_uint_t dry_run)
{
    ngx_uint_t  i;

    for (i = first; i <= last; i++) {
        ngx_http_asana_hook_out(out, "asana_hook_%s{zone=\"%V\",result=\"",
                                name, zone);
        ngx_http_asana_hook_out_word(out, i, dry_run);
        ngx_http_asana_hook_out(out, "\"} %uA\n", counters[i]);
    }
}


static void
ngx_http_asana_hook_metrics_zone(ngx_http_asana_hook_out_t *out,
    ngx_http_asana_hook_zone_t *zone, ngx_str_t *name)
{
    size_t      size;
    ngx_uint_t  entries, free;

    ngx_http_asana_hook_zone_usage(zone, &entries, &free);

    size = zone->shpool->end - (u_char *) zone->shpool;
    free *= ngx_pagesize;

    ngx_http_asana_hook_metrics_head(out, "zone_bytes", "gauge",
                                     "Shared memory of the zone.");
    ngx_http_asana_hook_out(out,
                            "asana_hook_zone_bytes{zone=\"%V\",kind=\"size\"} "
                            "%uz\n"
                            "asana_hook_zone_bytes{zone=\"%V\",kind=\"used\"} "
                            "%uz\n"
                            "asana_hook_zone_bytes{zone=\"%V\",kind=\"free\"} "
                            "%ui\n",
                            name, size, name, size - free, name, free);

    ngx_http_asana_hook_metrics_head(out, "zone_entries", "gauge",
                                     "Keys in the zone.");
    ngx_http_asana_hook_out(out, "asana_hook_zone_entries{zone=\"%V\"} %ui\n",
                            name, entries);
}


static void
ngx_http_asana_hook_metrics_store(ngx_http_asana_hook_out_t *out,
    ngx_http_asana_hook_zone_t *zone, ngx_str_t *name,
    ngx_http_asana_hook_stat_t *stat)
{
    ngx_http_asana_hook_metrics_head(out, "store_up", "gauge",
                                     "Whether the store can be read.");
    ngx_http_asana_hook_out(out, "asana_hook_store_up{zone=\"%V\"} %d\n", name,
                            stat ? 1 : 0);

    if (stat == NULL) {
        return;
    }

    ngx_http_asana_hook_metrics_head(out, "secrets", "gauge",
                                     "Secrets in the store by their state.");
    ngx_http_asana_hook_out(out,
                            "asana_hook_secrets{zone=\"%V\",state=\"pending\"} "
                            "%uL\n"
                            "asana_hook_secrets{zone=\"%V\","
                            "state=\"confirmed\"} %uL\n",
                            name, stat->pending, name,
                            stat->secrets - stat->pending);

    ngx_http_asana_hook_metrics_head(out, "store_bytes", "gauge",
                                     "Size of the store.");
    ngx_http_asana_hook_out(out,
                            "asana_hook_store_bytes{zone=\"%V\",kind=\"used\"} "
                            "%uL\n"
                            "asana_hook_store_bytes{zone=\"%V\",kind=\"max\"} "
                            "%i\n",
                            name, stat->size, name, zone->max_size);
}


static void
ngx_http_asana_hook_metrics_commits(ngx_http_asana_hook_out_t *out,
    ngx_http_asana_hook_commits_t *commits, ngx_str_t *name)
{
    uint64_t    n, usec;
    ngx_uint_t  i, bound;

    n = 0;
    usec = commits->usec;

    ngx_http_asana_hook_metrics_head(out, "store_commit_seconds", "histogram",
                                     "Time of a durable commit.");

    for (i = 0; i < NGX_HTTP_ASANA_HOOK_BUCKETS; i++) {

        n += commits->bucket[i];
        bound = ngx_http_asana_hook_bounds[i];

        ngx_http_asana_hook_out(out,
                                "asana_hook_store_commit_seconds_bucket{"
                                "zone=\"%V\",le=\"%ui.%06ui\"} %uL\n",
                                name, bound / 1000000, bound % 1000000, n);
    }

    n += commits->bucket[i];

    ngx_http_asana_hook_out(out,
                            "asana_hook_store_commit_seconds_bucket{"
                            "zone=\"%V\",le=\"+Inf\"} %uL\n"
                            "asana_hook_store_commit_seconds_sum{zone=\"%V\"} "
                            "%uL.%06uL\n"
                            "asana_hook_store_commit_seconds_count{"
                            "zone=\"%V\"} %uL\n",
                            name, n, name, usec / 1000000, usec % 1000000,
                            name, n);

    ngx_http_asana_hook_metrics_head(out, "store_commits_total", "counter",
                                     "Durable commits.");
    ngx_http_asana_hook_out(out,
                            "asana_hook_store_commits_total{zone=\"%V\"} %uL\n",
                            name, n);
}


/* what may stand in a label's value: \, " and a line feed are escaped */

static ngx_int_t
ngx_http_asana_hook_metrics_label(ngx_pool_t *pool, ngx_str_t *dst,
    ngx_str_t *src)
{
    u_char  *p;
    size_t   i;

    p = ngx_pnalloc(pool, 2 * src->len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    dst->data = p;

    for (i = 0; i < src->len; i++) {

        switch (src->data[i]) {

        case '\\':
        case '"':
            *p++ = '\\';
            *p++ = src->data[i];
            break;

        case LF:
            *p++ = '\\';
            *p++ = 'n';
            break;

        default:
            *p++ = src->data[i];
        }
    }

    dst->len = p - dst->data;

    return NGX_OK;
}
