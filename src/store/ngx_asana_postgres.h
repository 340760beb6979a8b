
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_POSTGRES_H_INCLUDED_
#define _NGX_ASANA_POSTGRES_H_INCLUDED_


#include "ngx_asana_backend.h"


/*
 * A store that hosts share, in the tables of share/asana_hook.sql.  conf->seal
 * is required.
 */
extern ngx_asana_backend_t  ngx_asana_postgres;


#endif /* _NGX_ASANA_POSTGRES_H_INCLUDED_ */
