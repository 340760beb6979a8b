# Tests for a store whose look-ups are answered later, in any order, or with an
# error: see t/lib/late.c.  "make test-late" runs all tests with it.

use strict;
use warnings;

use lib 't/lib';

use Cwd qw(getcwd);
use Test::More;

use Receiver qw(raw request response sign wait_for);

BEGIN {
    if (!$ENV{ASANA_HOOK_LATE}) {
        plan(skip_all => 'make test-late has such a store');
    }
}

my $secret = 'a-secret-of-printable-text-0123456789';
my $body   = '{"events":[{"action":"changed"}]}';
my $t      = Receiver->new(
    workers  => 1,
    location => 'client_body_timeout 5s;',
    server   => 'location /api { asana_hook_api hooks write=on; }'
)->app->run;
my $unknown = "$t->{dir}/state/unknown";

sub known {
    my ($is) = @_;
    return unlink $unknown if $is;
    open my $fh, '>', $unknown or die "$unknown: $!";
    close $fh;
    return chmod 0644, $unknown;
}

is $t->handshake('/a', $secret)->{status}, 200, 'a handshake';
is $t->deliver('/a', $secret, $body)->{status}, 200, 'a delivery';
is $t->deliver('/a', "$secret-", $body)->{status}, 403, 'a forged one';
is $t->deliver('/none', $secret, $body)->{status}, 403, 'an unknown key';
is join(' ', $t->words(4)), 'HANDSHAKE VERIFIED INVALID UNKNOWN', 'their words';

# a store that cannot be asked gives no bad verdict; the time of the delivery
# is written before another handshake, and then the zone knows the secret

is $t->handshake('/settled', $secret)->{status}, 200, 'all is written';
is $t->deliver('/a', $secret, $body)->{status}, 200, 'the zone knows it';
$t->words(2);

known(0);
is $t->deliver('/a', $secret, $body)->{status}, 200,
    'what the zone knows verifies';
for my $case (['/a', "$secret-"], ['/none', $secret]) {
    my $r = $t->deliver(@{$case}, $body);
    is $r->{status}, 503, 'not known: 503, never 403';
    like $r->{head}, qr/^Retry-After: \d+\r$/m, 'to be sent again';
}
my $r = $t->handshake('/b', $secret);
is $r->{status}, 503, 'a handshake: 503';
unlike $r->{head}, qr/^X-Hook-Secret:/mi, 'without an echo';
is $t->call('GET', '/api/hooks?key=localhost%2Fa')->{status}, 503, 'the API';
is join(' ', $t->words(5)), 'VERIFIED ERROR ERROR ERROR -', 'their words';
known(1);
is $t->deliver('/a', $secret, $body)->{status}, 200, 'it is back';
is $t->deliver('/none', $secret, $body)->{status}, 403, 'and rejects again';
$t->words(2);

# many at once, in any order, some of whose clients leave

my @keys = map {"/many/$_"} 1 .. 40;
is scalar(grep { $_->{status} == 200 }
        $t->many(map { raw($_, "X-Hook-Secret: $secret$_", '') } @keys)), 40,
    'forty handshakes';
my @left = map {
    request($t->connection,
        raw($_, 'X-Hook-Signature: ' . sign("$secret$_", $body), $body))
} @keys;
close $_ for @left;
is scalar(grep { $_->{status} == 200 } $t->many(map {
        raw($_, 'X-Hook-Signature: ' . sign("$secret$_", $body), $body)
    } @keys)), 40, 'forty deliveries beside others whose clients left';

# a worker that goes answers those that wait

for my $signal (qw(HUP QUIT)) {
    my @s = map {
        request($t->connection,
            raw($_, 'X-Hook-Signature: ' . sign("$secret-", $body), $body))
    } @keys[0 .. 19];
    my @old = $t->workers;
    wait_for(sub { $t->slurp('access.log') =~ /many/ });
    kill $signal, $t->master;
    is join(' ', grep { $_ && $_ != 403 } map { response($_)->{status} } @s),
        '', "$signal: each gets its verdict, or none";
    ok wait_for(sub { Receiver::gone(@old) }, 10), 'the worker goes';
}
$t->stop;
$t->start;
is scalar(grep { $_->{status} == 200 } $t->many(map {
        raw($_, 'X-Hook-Signature: ' . sign("$secret$_", $body), $body)
    } @keys)), 40, 'nothing is lost';
$t->secrecy($secret);
$t->end;

done_testing;
