
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_HTTP_ASANA_GATEWAY_H_INCLUDED_
#define _NGX_HTTP_ASANA_GATEWAY_H_INCLUDED_


#include "ngx_http_asana_request.h"


/* At configuration time: puts the gateway's filters into nginx's chains. */
void ngx_http_asana_gateway_init(void);

/*
 * Notes that the request creates or deletes a webhook.  NGX_DECLINED: it goes
 * on, all else is the status of a call that is refused.
 */
ngx_int_t ngx_http_asana_gateway(ngx_http_request_t *r,
    ngx_http_asana_zone_conf_t *azcf);


#endif /* _NGX_HTTP_ASANA_GATEWAY_H_INCLUDED_ */
