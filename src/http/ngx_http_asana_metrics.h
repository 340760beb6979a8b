
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_HTTP_ASANA_METRICS_H_INCLUDED_
#define _NGX_HTTP_ASANA_METRICS_H_INCLUDED_


#include "ngx_http_asana_text.h"


/* Appends all metrics of the zone, Prometheus text format 0.0.4. */
void ngx_http_asana_metrics(ngx_http_asana_text_t *out,
    ngx_http_asana_zone_conf_t *azcf);

/* Appends the document of GET /: the same and a little more, as JSON. */
void ngx_http_asana_metrics_json(ngx_http_asana_text_t *out,
    ngx_http_asana_zone_conf_t *azcf);


#endif /* _NGX_HTTP_ASANA_METRICS_H_INCLUDED_ */
