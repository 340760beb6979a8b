
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_metrics.h"


static void ngx_http_asana_metrics_head(ngx_http_asana_text_t *out,
    const char *name, const char *type, const char *help);
static void ngx_http_asana_metrics_row(ngx_http_asana_text_t *out,
    ngx_str_t *zone, const char *name,
    ngx_asana_counters_t *counters, ngx_asana_count_e count);
static void ngx_http_asana_metrics_zone(ngx_http_asana_text_t *out,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *name);
static void ngx_http_asana_metrics_health(ngx_http_asana_text_t *out,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *name);
static void ngx_http_asana_metrics_store(ngx_http_asana_text_t *out,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *name);
static void ngx_http_asana_metrics_keys(ngx_http_asana_text_t *out,
    ngx_str_t *zone, ngx_asana_seal_usage_t *usage);
static void ngx_http_asana_metrics_gauge(ngx_http_asana_text_t *out,
    ngx_str_t *zone, const char *name, const char *help, uint64_t value);
static void ngx_http_asana_metrics_times(ngx_http_asana_text_t *out,
    ngx_str_t *zone, const char *name, const char *help,
    ngx_asana_times_t *times);
static void ngx_http_asana_metrics_engine(ngx_http_asana_text_t *out,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *name);
static void ngx_http_asana_metrics_counter(ngx_http_asana_text_t *out,
    ngx_str_t *zone, const char *name, const char *help, uint64_t value);
static ngx_int_t ngx_http_asana_metrics_label(ngx_pool_t *pool,
    ngx_str_t *dst, ngx_str_t *src);


void
ngx_http_asana_metrics(ngx_http_asana_text_t *out,
    ngx_http_asana_zone_conf_t *azcf)
{
    ngx_str_t              name;
    ngx_uint_t             i;
    ngx_asana_counters_t  *counters;

    counters = ngx_asana_zone_counters(azcf->zone);

    if (ngx_http_asana_metrics_label(out->pool, &name, &azcf->name) != NGX_OK)
    {
        out->failed = 1;
        return;
    }

    ngx_http_asana_metrics_head(out, "build_info", "gauge",
                                "The module and its kind of store.");
    ngx_http_asana_text(out, "asana_hook_build_info{version=\""
                        NGX_ASANA_VERSION "\",store=\"%s\"} 1\n",
                        ngx_asana_zone_backend(azcf->zone));

    ngx_http_asana_metrics_head(out, "handshakes_total", "counter",
                                "Handshakes by their outcome.");
    ngx_http_asana_metrics_row(out, &name, "handshakes_total", counters,
                               NGX_ASANA_COUNT_HANDSHAKES);

    ngx_http_asana_metrics_head(out, "deliveries_total", "counter",
                                "Deliveries by their outcome.");
    ngx_http_asana_metrics_row(out, &name, "deliveries_total", counters,
                               NGX_ASANA_COUNT_DELIVERIES);
    ngx_http_asana_metrics_row(out, &name, "deliveries_total", counters,
                               NGX_ASANA_COUNT_DRY_RUNS);

    ngx_http_asana_metrics_head(out, "answers_total", "counter",
                                "What Asana got for verified deliveries.");

    for (i = 0; i < NGX_ASANA_ANSWERS; i++) {
        ngx_http_asana_text(out, "asana_hook_answers_total{zone=\"%V\","
                            "class=\"%s\"} %uA\n", &name,
                            ngx_asana_counters_answers[i],
                            counters->answers[i]);
    }

    if (azcf->gateway) {
        ngx_http_asana_metrics_head(out, "gateway_requests_total", "counter",
                                    "Webhooks that were created or deleted "
                                    "through the gateway, by the outcome.");
        ngx_http_asana_metrics_row(out, &name, "gateway_requests_total",
                                   counters, NGX_ASANA_COUNT_GATEWAY);
    }

    ngx_http_asana_metrics_health(out, azcf, &name);
    ngx_http_asana_metrics_zone(out, azcf, &name);
    ngx_http_asana_metrics_store(out, azcf, &name);
    ngx_http_asana_metrics_engine(out, azcf, &name);
}


void
ngx_http_asana_metrics_json(ngx_http_asana_text_t *out,
    ngx_http_asana_zone_conf_t *azcf)
{
    ngx_asana_stat_t         stat;
    ngx_asana_counters_t    *counters;
    ngx_asana_zone_usage_t   usage;

    counters = ngx_asana_zone_counters(azcf->zone);

    ngx_asana_zone_usage(azcf->zone, &usage);

    ngx_http_asana_text(out, "{\"zone\":\"");
    ngx_http_asana_text_json(out, &azcf->name);
    ngx_http_asana_text(out,
                        "\",\"version\":\"" NGX_ASANA_VERSION
                        "\",\"size\":%uz,\"used\":%uz,\"entries\":%ui,",
                        usage.size, usage.used, usage.entries);

    if (ngx_asana_zone_stat(azcf->zone, &stat) == NGX_OK) {
        ngx_http_asana_text(out,
                            "\"store\":{\"kind\":\"%s\",\"keys\":%uL,"
                            "\"secrets\":%uL,\"pending\":%uL,"
                            "\"size\":%uL,\"max_size\":%uz,"
                            "\"commits\":%uL,\"lookups\":%uA,"
                            "\"queries\":%uL,\"conflicts\":%uA,"
                            "\"failures\":%uA,\"readable\":%s,"
                            "\"writable\":%s",
                            ngx_asana_zone_backend(azcf->zone),
                            stat.keys, stat.secrets, stat.pending,
                            stat.used, azcf->store.max_size,
                            ngx_asana_counters_total(&counters->commits),
                            counters->lookups,
                            ngx_asana_counters_total(&counters->queries),
                            counters->conflicts, counters->failures,
                            stat.readable ? "true" : "false",
                            stat.writable ? "true" : "false");
        ngx_http_asana_text_keys(out, &stat.usage);
        ngx_http_asana_text(out, "},");

    } else {
        ngx_http_asana_text(out, "\"store\":null,");
    }

    ngx_http_asana_text_health(out, azcf);
    ngx_http_asana_text_counters(out, counters);
    ngx_http_asana_text(out, "}\n");
}


static void
ngx_http_asana_metrics_head(ngx_http_asana_text_t *out,
    const char *name, const char *type, const char *help)
{
    ngx_http_asana_text(out,
                        "# HELP asana_hook_%s %s\n"
                        "# TYPE asana_hook_%s %s\n",
                        name, help, name, type);
}


static void
ngx_http_asana_metrics_row(ngx_http_asana_text_t *out,
    ngx_str_t *zone, const char *name, ngx_asana_counters_t *counters,
    ngx_asana_count_e count)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_ASANA_WORDS; i++) {

        if (!(ngx_http_asana_word_counts[count] & 1 << i)) {
            continue;
        }

        ngx_http_asana_text(out, "asana_hook_%s{zone=\"%V\",result=\"",
                            name, zone);
        ngx_http_asana_text_word(out, i,
                                 count == NGX_ASANA_COUNT_DRY_RUNS);
        ngx_http_asana_text(out, "\"} %uA\n", counters->count[count][i]);
    }
}


static void
ngx_http_asana_metrics_zone(ngx_http_asana_text_t *out,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *name)
{
    ngx_asana_zone_usage_t  usage;

    ngx_asana_zone_usage(azcf->zone, &usage);

    ngx_http_asana_metrics_gauge(out, name, "zone_used_bytes",
                                 "Shared memory of the zone in use.",
                                 usage.used);
    ngx_http_asana_metrics_gauge(out, name, "zone_size_bytes",
                                 "Shared memory of the zone.", usage.size);
    ngx_http_asana_metrics_gauge(out, name, "zone_entries",
                                 "Keys in the zone.", usage.entries);
}


static void
ngx_http_asana_metrics_health(ngx_http_asana_text_t *out,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *name)
{
    time_t      age, failing;
    ngx_uint_t  i, count[NGX_ASANA_HEALTHS];

    if (ngx_asana_tally(azcf->tally, count, &failing, &age) != NGX_OK) {
        return;
    }

    ngx_http_asana_metrics_head(out, "hooks", "gauge",
                                "Keys in the store by their health.");

    for (i = 0; i < NGX_ASANA_HEALTHS; i++) {
        ngx_http_asana_text(out, "asana_hook_hooks{zone=\"%V\",health=\"%V\"}"
                            " %ui\n", name, &ngx_asana_health_names[i],
                            count[i]);
    }

    ngx_http_asana_metrics_gauge(out, name, "hooks_failing_seconds",
                                 "Time since the first of them failed.",
                                 failing);
    ngx_http_asana_metrics_gauge(out, name, "hooks_age_seconds",
                                 "Time since these keys were counted.", age);
}


static void
ngx_http_asana_metrics_store(ngx_http_asana_text_t *out,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *name)
{
    ngx_int_t         rc;
    ngx_asana_stat_t  stat;

    rc = ngx_asana_zone_stat(azcf->zone, &stat);

    ngx_http_asana_metrics_gauge(out, name, "store_readable",
                                 "Whether the store can be read.",
                                 rc == NGX_OK && stat.readable);
    ngx_http_asana_metrics_gauge(out, name, "store_writable",
                                 "Whether the store could be written last.",
                                 rc == NGX_OK && stat.writable);

    if (azcf->fleet) {
        ngx_http_asana_metrics_head(out, "store_contact_seconds", "gauge",
                                    "Time since the store was heard.");
        ngx_http_asana_text(out, "asana_hook_store_contact_seconds"
                            "{zone=\"%V\"} %uL.%03uL\n", name,
                            stat.contact / 1000, stat.contact % 1000);
        ngx_http_asana_metrics_gauge(out, name, "store_stale_seconds",
                                     "After which no secret is believed.",
                                     azcf->store.stale);

    } else {
        ngx_http_asana_metrics_gauge(out, name, "store_max_bytes",
                                     "What the store may take.",
                                     azcf->store.max_size);
    }

    if (rc == NGX_OK) {
        ngx_http_asana_metrics_gauge(out, name, "store_used_bytes",
                                     "What the store takes.", stat.used);
        ngx_http_asana_metrics_keys(out, name, &stat.usage);
    }
}


/* without encryption there are none */

static void
ngx_http_asana_metrics_keys(ngx_http_asana_text_t *out, ngx_str_t *zone,
    ngx_asana_seal_usage_t *usage)
{
    ngx_uint_t  i;

    if (usage->n) {
        ngx_http_asana_metrics_head(out, "store_secrets", "gauge",
                                    "Secrets by the key that encrypts them.");
    }

    for (i = 0; i < usage->n; i++) {
        ngx_http_asana_text(out, "asana_hook_store_secrets{zone=\"%V\","
                            "key_id=\"", zone);
        ngx_http_asana_text_hex(out, usage->keys[i].id, NGX_ASANA_SEAL_ID_LEN);
        ngx_http_asana_text(out, "\"} %uL\n", usage->keys[i].secrets);
    }
}


static void
ngx_http_asana_metrics_gauge(ngx_http_asana_text_t *out, ngx_str_t *zone,
    const char *name, const char *help, uint64_t value)
{
    ngx_http_asana_metrics_head(out, name, "gauge", help);
    ngx_http_asana_text(out, "asana_hook_%s{zone=\"%V\"} %uL\n", name, zone,
                        value);
}


static void
ngx_http_asana_metrics_engine(ngx_http_asana_text_t *out,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *name)
{
    ngx_asana_counters_t  *counters;

    counters = ngx_asana_zone_counters(azcf->zone);

    ngx_http_asana_metrics_times(out, name, "store_commit_seconds",
                                 "Time of a durable commit.",
                                 &counters->commits);
    ngx_http_asana_metrics_counter(out, name, "store_lookups_total",
                                   "Keys that the store was asked for.",
                                   counters->lookups);
    ngx_http_asana_metrics_times(out, name, "store_lookup_seconds",
                                 "Time of a query that looks up keys.",
                                 &counters->queries);

    if (azcf->fleet) {
        ngx_http_asana_metrics_counter(out, name, "store_conflicts_total",
                                       "Changes that lost to another host.",
                                       counters->conflicts);
        ngx_http_asana_metrics_counter(out, name, "store_failures_total",
                                       "Failures to use the database.",
                                       counters->failures);
    }
}


static void
ngx_http_asana_metrics_counter(ngx_http_asana_text_t *out, ngx_str_t *zone,
    const char *name, const char *help, uint64_t value)
{
    ngx_http_asana_metrics_head(out, name, "counter", help);
    ngx_http_asana_text(out, "asana_hook_%s{zone=\"%V\"} %uL\n", name, zone,
                        value);
}


static void
ngx_http_asana_metrics_times(ngx_http_asana_text_t *out, ngx_str_t *zone,
    const char *name, const char *help, ngx_asana_times_t *times)
{
    uint64_t    n, usec;
    ngx_uint_t  i, bound;

    n = 0;
    usec = times->usec;

    ngx_http_asana_metrics_head(out, name, "histogram", help);

    for (i = 0; i < NGX_ASANA_BUCKETS; i++) {
        n += times->n[i];
        bound = ngx_asana_counters_bounds[i];

        ngx_http_asana_text(out,
                            "asana_hook_%s_bucket{zone=\"%V\","
                            "le=\"%ui.%06ui\"} %uL\n",
                            name, zone, bound / 1000000, bound % 1000000, n);
    }

    n += times->n[i];

    ngx_http_asana_text(out,
                        "asana_hook_%s_bucket{zone=\"%V\",le=\"+Inf\"} %uL\n"
                        "asana_hook_%s_sum{zone=\"%V\"} %uL.%06uL\n"
                        "asana_hook_%s_count{zone=\"%V\"} %uL\n",
                        name, zone, n, name, zone, usec / 1000000,
                        usec % 1000000, name, zone, n);
}


/* what may stand in a label's value: \, " and a line feed are escaped */

static ngx_int_t
ngx_http_asana_metrics_label(ngx_pool_t *pool, ngx_str_t *dst,
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
