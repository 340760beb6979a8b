
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_events.h"


static void ngx_http_asana_events_text(ngx_http_asana_text_t *out,
    ngx_asana_event_t *event);
static void ngx_http_asana_events_member(ngx_http_asana_text_t *out,
    const char *name, ngx_str_t *value);


void
ngx_http_asana_events(ngx_http_asana_text_t *out,
    ngx_http_asana_zone_conf_t *azcf, ngx_uint_t limit)
{
    uint64_t             number;
    const char          *comma;
    ngx_asana_event_t    event;
    ngx_asana_events_t  *events;

    events = ngx_asana_zone_events(azcf->zone);

    ngx_http_asana_text(out, "{\"events\":[");

    comma = "";
    number = 0;

    while (limit-- && ngx_asana_events_next(events, &number, &event) == NGX_OK)
    {
        ngx_http_asana_text(out, "%s", comma);
        ngx_http_asana_events_text(out, &event);

        comma = ",";
    }

    ngx_http_asana_text(out, "]}\n");
}


static void
ngx_http_asana_events_text(ngx_http_asana_text_t *out,
    ngx_asana_event_t *event)
{
    ngx_str_t  *key, word;

    ngx_http_asana_word(&word, event->word, event->dry_run);

    ngx_http_asana_text(out, "{");
    ngx_http_asana_text_time(out, "time", event->time);
    ngx_http_asana_text(out, "\"word\":\"%V\",", &word);

    ngx_http_asana_events_member(out, "reason",
                                 &event->text[NGX_ASANA_EVENT_REASON]);
    ngx_http_asana_events_member(out, "address",
                                 &event->text[NGX_ASANA_EVENT_ADDRESS]);
    ngx_http_asana_events_member(out, "id", &event->text[NGX_ASANA_EVENT_ID]);

    key = &event->text[NGX_ASANA_EVENT_KEY];

    ngx_http_asana_events_member(out, "key", key);

    if (key->len == 0) {
        ngx_http_asana_text(out, "\"ref\":null,\"cut\":false}");
        return;
    }

    ngx_http_asana_text(out, "\"ref\":\"");
    ngx_http_asana_text_escaped(out, key);
    ngx_http_asana_text(out, "\",\"cut\":%s}", event->cut ? "true" : "false");
}


/* a member and a comma; null for what there is not */

static void
ngx_http_asana_events_member(ngx_http_asana_text_t *out, const char *name,
    ngx_str_t *value)
{
    if (value->len == 0) {
        ngx_http_asana_text(out, "\"%s\":null,", name);
        return;
    }

    ngx_http_asana_text(out, "\"%s\":\"", name);
    ngx_http_asana_text_json(out, value);
    ngx_http_asana_text(out, "\",");
}
