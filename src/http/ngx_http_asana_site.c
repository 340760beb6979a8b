
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_site.h"


static ngx_uint_t ngx_http_asana_site_same(ngx_http_request_t *r,
    ngx_str_t *origin);


#define ngx_http_asana_site_header(header, text)                              \
    ((header)->key.len == sizeof(text) - 1                                    \
     && ngx_strncmp((header)->lowcase_key, text, sizeof(text) - 1) == 0)

#define ngx_http_asana_site_value(value, text)                                \
    ((value)->len == sizeof(text) - 1                                         \
     && ngx_strncasecmp((value)->data, (u_char *) (text), sizeof(text) - 1)   \
        == 0)


/*
 * A browser says where a request comes from (W3C, "Fetch Metadata Request
 * Headers", 2.4; RFC 6454, 7.3); what sends neither header is none.
 */

ngx_uint_t
ngx_http_asana_site_foreign(ngx_http_request_t *r)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *header;

    if (r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD|NGX_HTTP_OPTIONS
                     |NGX_HTTP_TRACE))
    {
        return 0;
    }

    part = &r->headers_in.headers.part;
    header = part->elts;

    for (i = 0; /* void */ ; i++) {

        if (i >= part->nelts) {
            if (part->next == NULL) {
                break;
            }

            part = part->next;
            header = part->elts;
            i = 0;
        }

        if (header[i].hash == 0) {
            continue;
        }

        if (ngx_http_asana_site_header(&header[i], "sec-fetch-site")) {

            if (!ngx_http_asana_site_value(&header[i].value, "same-origin")
                && !ngx_http_asana_site_value(&header[i].value, "none"))
            {
                return 1;
            }

        } else if (ngx_http_asana_site_header(&header[i], "origin")) {

            if (!ngx_http_asana_site_same(r, &header[i].value)) {
                return 1;
            }
        }
    }

    return 0;
}


/*
 * Whether host and port are those of the request.  The scheme is not looked
 * at: TLS may end in front of nginx.
 */

static ngx_uint_t
ngx_http_asana_site_same(ngx_http_request_t *r, ngx_str_t *origin)
{
    u_char     *p;
    ngx_str_t   host;

    if (r->headers_in.host) {
        host = r->headers_in.host->value;

    } else {
        /* ":authority" of HTTP/3 */

        host.data = r->host_start;
        host.len = r->host_start ? r->host_end - r->host_start : 0;
    }

    p = ngx_strlcasestrn(origin->data, origin->data + origin->len,
                         (u_char *) "://", 3 - 1);

    if (p == NULL || host.len == 0) {
        return 0;
    }

    p += 3;

    return origin->data + origin->len == p + host.len
           && ngx_strncasecmp(p, host.data, host.len) == 0;
}
