
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_HTTP_ASANA_EVENTS_H_INCLUDED_
#define _NGX_HTTP_ASANA_EVENTS_H_INCLUDED_


#include "ngx_http_asana_text.h"


/*
 * Appends the document of GET /events: so many of the latest decisions that
 * were no success, the newest one first.
 */
void ngx_http_asana_events(ngx_http_asana_text_t *out,
    ngx_http_asana_zone_conf_t *azcf, ngx_uint_t limit);


#endif /* _NGX_HTTP_ASANA_EVENTS_H_INCLUDED_ */
