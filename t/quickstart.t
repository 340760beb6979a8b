# Tests for quickstart: it shows all of it, also where PATH has no /usr/sbin.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

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

done_testing;
