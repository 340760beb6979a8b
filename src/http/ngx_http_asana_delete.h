
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_HTTP_ASANA_DELETE_H_INCLUDED_
#define _NGX_HTTP_ASANA_DELETE_H_INCLUDED_


#include "ngx_http_asana_hold.h"


/*
 * Sets the gid of the webhook that the request is to delete, the last segment
 * of its path; empty if it is no such call.
 */
void ngx_http_asana_delete_gid(ngx_http_request_t *r, ngx_str_t *gid);

/*
 * When Asana answers the call with 200, the secret of the gid is revoked, and
 * then the answer goes out.
 */
void ngx_http_asana_delete(ngx_http_asana_hold_t *hold, ngx_str_t *gid);


#endif /* _NGX_HTTP_ASANA_DELETE_H_INCLUDED_ */
