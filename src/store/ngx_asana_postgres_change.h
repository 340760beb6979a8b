
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_POSTGRES_CHANGE_H_INCLUDED_
#define _NGX_ASANA_POSTGRES_CHANGE_H_INCLUDED_


#include "ngx_asana_backend.h"
#include "ngx_asana_pq.h"


/*
 * In the store's thread: changes the batch in one transaction, and sets the
 * outcomes; all of them are FAILED if it is not known to be durable.  Returns
 * the position of the commit in the journal, 0 if it has none: times of
 * deliveries, calls and RESEAL concern nobody's verdicts.
 */
uint64_t ngx_asana_postgres_change(ngx_asana_pq_t *pq,
    ngx_asana_backend_conf_t *conf, ngx_queue_t *batch, ngx_log_t *log);


#endif /* _NGX_ASANA_POSTGRES_CHANGE_H_INCLUDED_ */
