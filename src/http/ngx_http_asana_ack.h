
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_HTTP_ASANA_ACK_H_INCLUDED_
#define _NGX_HTTP_ASANA_ACK_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


/*
 * At configuration time: puts the header filter of "asana_hook_ack" into
 * nginx's chain.
 */
void ngx_http_asana_ack_init(void);


#endif /* _NGX_HTTP_ASANA_ACK_H_INCLUDED_ */
