
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_HTTP_ASANA_CONF_H_INCLUDED_
#define _NGX_HTTP_ASANA_CONF_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "ngx_asana_tally.h"
#include "ngx_asana_zone.h"


/*
 * What nginx.conf says.  Nothing of it is written at the time of a request.
 */

#define NGX_HTTP_ASANA_HEARTBEAT_PASS    0
#define NGX_HTTP_ASANA_HEARTBEAT_ANSWER  1


typedef struct {
    ngx_http_complex_value_t      key;
    ngx_str_t                     name;
    ngx_path_t                   *path;      /* NULL: not on this host */
    ngx_asana_backend_t          *backend;
    ngx_uint_t                    fleet;     /* 1: hosts share the store */
    ngx_uint_t                    given;     /* parameters, a bit for each */
    ngx_array_t                  *zones;     /* all of the module */
    ngx_asana_backend_conf_t      store;
    ngx_asana_zone_t             *zone;
    ngx_asana_tally_t            *tally;
    ngx_uint_t                    gateway;   /* 1: it has one */
    ngx_uint_t                    awaited;   /* 1: a policy asks for one */
    ngx_uint_t                    perhaps;   /* 1: a policy may ask for one */
} ngx_http_asana_zone_conf_t;


typedef struct {
    ngx_array_t                   zones;   /* ngx_http_asana_zone_conf_t * */
} ngx_http_asana_main_conf_t;


typedef struct {
    ngx_shm_zone_t               *hook;    /* their data is a zone_conf_t */
    ngx_shm_zone_t               *api;
    ngx_shm_zone_t               *gateway;
    ngx_http_complex_value_t     *enroll;
    ngx_uint_t                    status;
    ngx_uint_t                    log_level;
    ngx_uint_t                    heartbeat;
    ngx_flag_t                    ack;
    ngx_flag_t                    dry_run;
    ngx_uint_t                    api_write;
} ngx_http_asana_loc_conf_t;


extern ngx_module_t  ngx_http_asana_hook_module;


/*
 * Handlers of directives, at configuration time: the name of a zone or "off",
 * "asana_hook_enroll", "asana_hook_status", and a word of those in cmd->post,
 * an ngx_conf_enum_t.
 */
char *ngx_http_asana_conf_named(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_asana_conf_enroll(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_asana_conf_status(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_asana_conf_enum(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);

/* An ngx_shm_zone_init_pt, in the master: its data is an azcf. */
ngx_int_t ngx_http_asana_conf_init_zone(ngx_shm_zone_t *shm_zone, void *data);


#endif /* _NGX_HTTP_ASANA_CONF_H_INCLUDED_ */
