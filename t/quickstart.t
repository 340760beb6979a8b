# Tests for quickstart: it shows all of it, also where PATH has no /usr/sbin.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Postgres;

plan skip_all => 'it uses the nginx that is installed'
    if $ENV{ASANA_HOOK_STATIC} || $ENV{TEST_NGINX_BINARY};

my $text = qx(PATH=/usr/local/bin:/usr/bin:/bin ./quickstart 2>&1);
is $?, 0, 'it ends well' or diag $text;
like $text, qr/^All of this worked\. Nothing is left running\.$/m,
    'and says so';
like $text, qr/^ +VERIFIED: the application got "POST \S+ VERIFIED events=1"$/m,
    'the application is told the verdict';
like $text, qr/^ +asana_hook_zone .*\n.* state=DIR\/state/m,
    'it shows its configuration';

SKIP: {
    my $missing = Postgres->missing;
    skip $missing, 1 if $missing;

    $text = qx(PATH=/usr/local/bin:/usr/bin:/bin ./quickstart fleet 2>&1);
    is $?, 0, 'a fleet: it ends well' or diag $text;
    like $text, qr/^All of this worked\. Nothing is left running\.$/m,
        'and says so';
    like $text, qr/^ +verified: [1-9] by host one, [1-9] by host two$/m,
        'both hosts verify';
    like $text, qr/^ +state=postgresql:\S+\n +encryption_key=DIR\/key;$/m,
        'it shows its configuration';

    # an ordinary user, as whom PostgreSQL runs itself

    my $so = 'build/ngx_http_asana_hook_postgres_module.so';
    skip 'nobody else can be asked', 1
        if $> != 0 || system("runuser -u nobody -- test -r $so 2>/dev/null");
    $text = qx(runuser -u nobody -- ./quickstart fleet 2>&1);
    is $?, 0, 'it does not need root' or diag $text;
}

done_testing;
