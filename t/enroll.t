# Tests for asana_hook_enroll: who may bring a new secret, and when.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver qw(request response sign wait_for);

sub secret { my ($n) = @_; return "secret-$n-" . 'x' x 40 }

my @words;

# first

my $t = Receiver->new(zone => 'inactive=2s max_secrets=2')->app->run;

is $t->handshake('/a', secret(1))->{status}, 200, 'first: the first is taken';
is $t->handshake('/a', secret(2))->{status}, 403, 'the second is not';
is $t->handshake('/b', secret(2))->{status}, 200, 'another key is another';
is $t->deliver('/a', secret(2), 'x')->{status}, 403,
    'what was refused verifies nothing';

ok wait_for(sub { $t->handshake('/b', secret(3))->{status} == 200 }, 5),
    'an inactive one is replaced';
is $t->deliver('/b', secret(2), 'x')->{status}, 403, 'and verifies no more';
is $t->deliver('/b', secret(3), 'x')->{status}, 200, 'the new one does';

# a delivery keeps a secret active, also one that was inactive

is $t->deliver('/a', secret(1), '{"events":[]}')->{status}, 200,
    'an inactive secret verifies';
is $t->handshake('/a', secret(2))->{status}, 403, 'and is active again';

my $end = time + 4;
my $kept = 1;
wait_for(sub {
    $t->deliver('/a', secret(1), 'x');
    $kept = 0 if $t->handshake('/a', secret(2))->{status} != 403;
    return time > $end;
});
ok $kept, 'deliveries keep it so';

# and it is remembered

$t->deliver('/a', secret(1), 'x');
$t->kill9;
$t->start;
is $t->handshake('/a', secret(2))->{status}, 403,
    'a restart takes no active secret for an inactive one';
is $t->deliver('/a', secret(1), 'x')->{status}, 200, 'it verifies';
$t->end;

# open

$t = Receiver->new(zone => 'max_secrets=3 inactive=4s',
    location => 'asana_hook_enroll open;')->app->run;

is $t->handshake('/a', secret($_))->{status}, 200, "open: $_ is taken"
    for 1 .. 3;
is $t->handshake('/a', secret(4))->{status}, 403, 'not more than max_secrets';
like $t->slurp('error.log'), qr/refused.*"max_secrets"/, 'the log says so';
is $t->deliver('/a', secret($_), "x$_")->{status}, 200, "$_ verifies"
    for 1 .. 3;
is $t->handshake('/a', secret(2))->{status}, 200, 'one of them again is fine';

ok wait_for(sub {
    $t->deliver('/a', secret(1), 'x');
    $t->deliver('/a', secret(3), 'x');
    return $t->handshake('/a', secret(4))->{status} == 200;
}, 15), 'the oldest inactive one is replaced';
is $t->deliver('/a', secret(2), 'x')->{status}, 403, 'that is gone';
is $t->deliver('/a', secret($_), 'x')->{status}, 200, "$_ verifies"
    for 1, 3, 4;
$t->end;

# off, and a variable

$t = Receiver->new(location => 'asana_hook_enroll off;')->app->run;
is $t->handshake('/a', secret(1))->{status}, 403, 'off: refused';
like $t->slurp('error.log'), qr/refused.*"asana_hook_enroll" is "off"/,
    'the log says so';
$t->end;

$t = Receiver->new(
    http     => 'map $arg_token $enroll { default off; 9f3a first; }',
    location => 'asana_hook_enroll $enroll;'
)->app->run;
is $t->handshake('/a?token=9f3b', secret(1))->{status}, 403, 'a wrong token';
is $t->handshake('/a?token=9f3a', secret(1))->{status}, 200, 'the right one';
is $t->handshake('/a?token=9f3a', secret(2))->{status}, 403, 'once';
$t->end;

$t = Receiver->new(location => 'asana_hook_enroll $arg_p;')->app->run;
for my $value ('', 'FIRST', 'firs', 'firstt', 'confirmed', 'register', 'gate') {
    is $t->handshake("/a?p=$value", secret(1))->{status}, 403,
        "the value \"$value\" is refused";
    is(($t->words)[-1], 'REFUSED', 'REFUSED');
}
like $t->slurp('error.log'), qr/"asana_hook_enroll" has the unknown value/,
    'and logged';
is $t->handshake('/a?p=open', secret(1))->{status}, 200, 'open';
is $t->handshake('/a?p=confirm', secret(2))->{status}, 200, 'a pending one';
is $t->handshake('/a?p=first', secret(2))->{status}, 200,
    'which is held is acknowledged under "first" too';
is $t->deliver('/a', secret(2), 'x')->{status}, 503, 'and stays pending';
$t->end;

# of racing handshakes exactly one is echoed

$t = Receiver->new(workers => 2)->app->run;
my ($both, $none) = (0, 0);
for my $n (1 .. 200) {
    my @s = map { $t->connection } 1 .. 2;
    request($s[$_], "POST /race/$n HTTP/1.1\r\nHost: localhost\r\n"
            . 'X-Hook-Secret: ' . secret("$n-$_") . "\r\n\r\n") for 0, 1;
    my $ok = grep { response($_)->{status} == 200 } @s;
    $both++ if $ok == 2;
    $none++ if $ok == 0;
}
is "$both $none", '0 0', 'two workers: exactly one of each racing pair';
$t->end;

done_testing;
