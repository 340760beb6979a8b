# Tests for asana_hook_gateway and the API: requests that another location
# takes over while a change is under way.

use strict;
use warnings;

use lib 't/lib';

use Socket qw(SOL_SOCKET SO_LINGER);
use Test::More;
use Time::HiRes qw(time);

use Receiver qw(request response wait_for);
use Shim;
use Upstream;

Shim::usable();
plan skip_all => 'without threads nothing waits'
    unless Receiver::threads();

my $t    = Receiver->new;
my $up   = Upstream->new($t);
my $shim = Shim->new($t);
my $pass = "proxy_pass http://127.0.0.1:$up->{port};";
my $app  = "proxy_pass http://127.0.0.1:$t->{app_port};";

# what a client's leaving leads to: at once, and to what is still under way
# when the change is done

my $slow  = "$pass proxy_set_header X-Plan after; proxy_buffering";
my %after = (
    'return'  => 'return 204;',
    'hook'    => "asana_hook hooks; $app",
    'api'     => 'asana_hook_api hooks write=on;',
    'proxy'   => "$slow on;",
    'stream'  => "$slow off;",
    'gateway' => "asana_hook_gateway hooks; $slow on;",
);
my %ways = (
    'buffered'   => '',
    'unbuffered' => 'proxy_buffering off;',
);
for my $name (sort keys %after) {
    $t->{server} .= "
        location /after$name/ { $after{$name} }
        location \@after$name { " . ($name eq 'api' ? 'return 204;'
            : $after{$name}) . " }
        location /api$name/ { post_action /after$name/;
            asana_hook_api hooks write=on; }";
    for my $way (sort keys %ways) {
        $t->{server} .= "
        location = /$way/$name { post_action /after$name/;
            asana_hook_gateway hooks; $pass $ways{$way} }
        location = /$way/named/$name { post_action \@after$name;
            asana_hook_gateway hooks; $pass $ways{$way} }";
    }
}
$t->{server} .= "
    location /api/ { asana_hook_api hooks write=on; }
    location = /slow { post_action /afterproxy/; send_timeout 100ms;
        asana_hook_gateway hooks; $pass }";
$t->{location} = 'asana_hook_enroll confirm;';
$t->app->run;

my $n = 0;
sub secret { return sprintf 'secret-%04d-%s', ++$n, 'm' x 40 }

sub leave {
    my ($s, $reset) = @_;
    setsockopt $s, SOL_SOCKET, SO_LINGER, pack 'ii', 1, 0 if $reset;
    close $s;
    return;
}

# commits are one after the other: those of before are over then

sub slow {
    $shim->set;
    $t->call('PUT', '/api/hooks?key=settle' . ++$n,
        ['X-Hook-Secret: ' . secret()]);
    $shim->set(delay_ms => 150);
    return $shim->syncs;
}

# what comes after the request stays until its gate is open

sub after {
    return $up->plan('after', [gate => "after$n"],
        [send => Upstream::by_length(200, 'after')], 'close');
}

sub create {
    my ($uri, $end) = @_;
    my ($secret, $key) = (secret(), "/k/$n");
    $t->handshake($key, $secret);
    my $plan = $up->plan("p$n", [send => Upstream::created($secret)],
        'close');
    my $syncs = slow();
    after();
    my $s = $up->call($uri, $plan);
    wait_for(sub { $shim->syncs > $syncs });
    $end->($s);
    $shim->set;
    my $got = wait_for(sub {
        $t->deliver($key, $secret, 'event')->{status} == 200;
    }, 10);
    $up->open("after$n");
    ok $got, "$uri: its secret is active";
    return;
}

for my $way (sort keys %ways) {
    for my $name (sort keys %after) {
        for my $uri ("/$way/$name", "/$way/named/$name") {
            for my $reset (0, 1) {
                create($uri, sub { leave($_[0], $reset) });
            }
        }
    }
}
create('/slow', sub { response($_[0], 1) });

# the same for the API

for my $name (sort keys %after) {
    for my $reset (0, 1) {
        my $secret = secret();
        my $key    = "api%2F$n";
        my $uri    = "/api$name/hooks?key=$key";
        for my $method (qw(PUT DELETE)) {
            my $syncs = slow();
            after();
            my $s = $t->connection;
            request($s, "$method $uri HTTP/1.1\r\nHost: localhost\r\n"
                    . "X-Hook-Secret: $secret\r\n\r\n");
            wait_for(sub { $shim->syncs > $syncs });
            leave($s, $reset);
            my $want = $method eq 'PUT' ? 200 : 404;
            ok wait_for(sub {
                $t->call('GET', "/api/hooks?key=$key")->{status} == $want;
            }, 10), "$method $uri is done";
            $up->open("after$n");
        }
    }
}

my $left = () = $t->slurp('error.log')
    =~ /closed connection.*"(?:PUT|DELETE) \/api/g;
is $left, 4 * keys %after, 'the API sees that its clients leave';

for my $name (qw(gateway proxy stream)) {
    ok wait_for(sub {
        my @ends = $t->slurp('access.log')
            =~ m{^(?:PUT|DELETE) /after$name/ (\d+)}mg;
        return "@ends" eq '200 200 200 200';
    }, 5), "and leaves what comes after them alone: $name";
}

# none of them lingers

$shim->set;
my $start = time;
$t->reload;
cmp_ok time - $start, '<', 10, 'no request is left behind';
$t->end;

done_testing;
