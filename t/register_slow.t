# Tests for asana_hook_gateway: answers that wait for a slow or failing disk,
# clients that do not wait, HTTP/2.

use strict;
use warnings;

use lib 't/lib';

use Errno qw(EIO);
use IO::Select;
use Socket qw(SOL_SOCKET SO_LINGER);
use Test::More;

use HTTP2;
use Receiver qw(request response sign wait_for);
use Shim;

Shim::usable();
plan skip_all => 'without threads all wait for the disk'
    unless Receiver::threads();

my $t = Receiver->new(
    location => 'asana_hook_enroll confirm;',
    server   => 'location = /create { asana_hook_gateway hooks; proxy_pass '
        . 'http://127.0.0.1:APP; proxy_ignore_client_abort on; }'
)->app;
$t->{server} =~ s/APP/$t->{app_port}/;
my $shim = Shim->new($t);
my $conf = $t->conf;
my $two  = Receiver::port();
my $h2   = ($t->nginx('-V'))[1] =~ /http_v2_module/;
$conf =~ s/(listen 127.0.0.1:\d+;)/$1 listen 127.0.0.1:$two http2;/ if $h2;
$t->run($conf);

my $n = 0;

# a pending secret, which the application behind the gateway names

sub pending {
    my $secret = sprintf 'secret-%03d-%s', ++$n, 'r' x 40;
    $t->handshake("/r/$n", $secret);
    $t->answer(201, "X-App: yes\r\n", qq({"X-Hook-Secret":"$secret"}));
    return $secret;
}

sub verifies {
    my ($i, $secret) = @_;
    return $t->deliver("/r/$i", $secret, 'event')->{status} == 200;
}

sub create {
    return request($t->connection, "POST /create HTTP/1.1\r\n"
            . "Host: localhost\r\nContent-Length: 1\r\n\r\nx");
}

sub word {
    my ($times) = @_;
    my @words;
    wait_for(sub {
        @words = $t->slurp('access.log') =~ m{^POST /create \d+ \[(.*?)\]}mg;
        return @words >= $times;
    });
    return $words[-1];
}

# the first byte of the answer comes after the commit, and nobody else waits

my $secret = pending();
my $syncs  = $shim->syncs;
$shim->set(stuck => 1);
my $s = create();
ok wait_for(sub { $shim->syncs > $syncs }), 'the answer waits for the disk';
is scalar(grep { $t->call('GET', '/other')->{status} != 201 } 1 .. 20), 0,
    'others do not';
ok !IO::Select->new($s)->can_read(0.1), 'not a byte of it has come';
$shim->set;
my $r = response($s);
is $r->{status}, 201, 'then it comes';
like $r->{head}, qr/^X-App: yes\r$/m, 'with its header';
is $r->{body}, qq({"X-Hook-Secret":"$secret"}), 'and body';
ok verifies($n, $secret), 'its secret verifies by then';
is word(1), 'CONFIRMED', 'CONFIRMED';

# clients that go while the answer is held: the webhook is there all the same

my @gone;
for my $abort (0, 1) {
    $shim->set;
    $secret = pending();
    push @gone, [$n, $secret];
    $shim->set(delay_ms => 300);
    $s = create();
    wait_for(sub { scalar(my @seen = $t->seen) });
    setsockopt $s, SOL_SOCKET, SO_LINGER, pack 'ii', 1, 0 if $abort;
    close $s;
}
$shim->set;
ok wait_for(sub { verifies(@$_) }), 'a client goes: the secret is active'
    for @gone;

# a commit that fails

$secret = pending();
$shim->set(sync => EIO);
$r = response(create(), 20);
is $r->{status}, 201, 'the commit fails: the answer is the same';
is $r->{body}, qq({"X-Hook-Secret":"$secret"}), 'and its body';
is word(4), 'ERROR', 'ERROR';
like $t->slurp('error.log'), qr/\[crit\].*could not be confirmed/, 'crit';
$shim->set;
ok wait_for(sub { $t->handshake("/back/$n", $secret)->{status} == 200 }),
    'the disk is back';
is $t->deliver("/r/$n", $secret, 'event')->{status}, 503, 'still pending';

# a worker that ends gracefully answers first

$secret = pending();
$shim->set(delay_ms => 300);
$s = create();
wait_for(sub { scalar(my @seen = $t->seen) });
kill 'HUP', $t->master;
is response($s, 20)->{status}, 201, 'a reload meanwhile';
$shim->set;
ok wait_for(sub { verifies($n, $secret) }), 'and it is active';

SKIP: {
    skip 'nginx has no HTTP/2', 4 if !$h2;
    for my $delay (0, 200) {
        $shim->set;
        $secret = pending();
        $shim->set(delay_ms => $delay);
        my $h = HTTP2->new($t->connection($two));
        my $id = $h->headers(1, [':method', 'POST'], [':path', '/create']);
        $r = $h->wait($id);
        is $r->{status}, 201, 'HTTP/2';
        is $r->{body}, qq({"X-Hook-Secret":"$secret"}), 'the body';
        $h->close;
    }
    $shim->set;
}

$t->secrecy($secret);
$t->end;

done_testing;
