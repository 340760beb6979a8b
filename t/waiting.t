# Tests for requests that wait for a slow store: a client that leaves takes
# its connection along, waiting has an end and a bound.

use strict;
use warnings;

use lib 't/lib';

use Test::More;
use Time::HiRes qw(time usleep);

use Receiver qw(request response wait_for);
use HTTP2;
use Shim;

Shim::usable();
plan skip_all => 'without threads all wait for the disk'
    unless Receiver::threads();

my $secret = 'a-secret-of-printable-text-0123456789';
my $n      = 0;

sub start {
    my ($connections, $listen) = @_;
    my $t = Receiver->new(
        zone   => 'max_size=16m',
        server => 'location /post {
                asana_hook hooks; post_action /after;
                proxy_pass http://127.0.0.1:APP;
            }
            location /after { proxy_pass http://127.0.0.1:APP; }
            location /api { asana_hook_api hooks write=on; }'
    );
    $t->{server} =~ s/APP/$t->{app_port}/g;
    my $shim = Shim->new($t->app);
    (my $conf = $t->conf)
        =~ s/worker_connections 1024/worker_connections $connections/;
    $conf =~ s/(listen [^;]*)/$1 $listen/ if $listen;
    $t->run($conf);
    return ($t, $shim);
}

sub leaving {
    my ($uri) = @_;
    $uri .= '/' . ++$n;
    return "POST $uri HTTP/1.1\r\nHost: localhost\r\n"
        . "X-Hook-Secret: $secret\r\nContent-Length: 0\r\n\r\n";
}

sub delivered {
    my ($t) = @_;
    return $t->deliver('/a', $secret, 'event')->{status} == 200;
}

# clients that leave, more of them than there are connections

my ($t, $shim) = start(256);
is $t->handshake('/a', $secret)->{status}, 200, 'a genuine webhook';
$shim->set(stuck => 1);

my $failed = 0;
for my $wave (1 .. 8) {
    my @s;
    for my $i (1 .. 96) {
        my $s = $t->connection;
        request($s, leaving($i % 8 ? '/l' : '/post'));
        $i % 3 ? push @s, $s : close $s;
    }
    usleep 50_000;
    close $_ for @s;
    $failed++ if !wait_for(sub { delivered($t) });
}
is $failed, 0, '768 clients that left hold up no delivery';
is scalar(grep {/worker_connections are not enough/}
        split /\n/, $t->slurp('error.log')), 0, 'there are connections left';

# a client that stays gets its answer

my $s = $t->connection;
request($s, leaving('/stays'));
$shim->set;
is response($s, 20)->{status}, 200, 'another one is answered';
ok wait_for(sub { $t->deliver("/stays/$n", $secret, 'x')->{status} == 200 }),
    'and its secret counts';
like $t->call('GET', '/api/metrics')->{body},
    qr/^asana_hook_handshakes_total\{zone="hooks",result="error"\} 0$/m,
    'who leaves makes no error';
$t->end;

# a wait has an end, which is not that of the change

($t, $shim) = start(256);
is $t->handshake('/a', $secret)->{status}, 200, 'a genuine webhook';
$t->words;
$shim->set(stuck => 1);
my $begin = time;
my $r = $t->handshake('/late', $secret);
is $r->{status}, 503, 'a change that takes too long: 503';
cmp_ok time - $begin, '>', 9, 'after 10 s';
is(($t->words)[-1], 'ERROR', 'ERROR');
like $t->slurp('error.log'), qr/\[crit\].*waited 10 s/, 'the log says why';
ok delivered($t), 'deliveries go on';
$shim->set;
ok wait_for(sub { $t->deliver('/late', $secret, 'x')->{status} == 200 }),
    'it was made all the same';
is $t->handshake('/late', $secret)->{status}, 200,
    'which the next handshake finds';
$t->end;

# changes of clients that left have a bound

($t, $shim) = start(512);
is $t->handshake('/a', $secret)->{status}, 200, 'a genuine webhook';
$shim->set(stuck => 1);
for my $wave (1 .. 12) {
    my @s = map { request($t->connection, leaving('/b')) } 1 .. 100;
    delivered($t);
    close $_ for @s;
}
is $t->handshake('/full', $secret)->{status}, 503, '1,024 wait: 503';
is $t->call('PUT', '/api/hooks?key=localhost/put',
    ["X-Hook-Secret: $secret"])->{status}, 503, 'nor is there room for a PUT';
unlike $t->slurp('error.log'), qr/waited 10 s/, 'at once';
my @lines = grep {/1024 changes wait/} split /\n/, $t->slurp('error.log');
ok @lines >= 1 && @lines < 20, 'the log says so, not each time'
    or diag scalar @lines;
ok delivered($t), 'deliveries go on';
$shim->set;
ok wait_for(sub { $t->handshake('/full', $secret)->{status} == 200 }),
    'later there is room';
$t->end;

# HTTP/2: streams that are reset, connections that are lost

SKIP: {
    skip 'nginx has no HTTP/2', 1
        if (Receiver->new->nginx('-V'))[1] !~ /http_v2_module/;
    ($t, $shim) = start(64, 'http2');
    my $send = sub {
        my ($h, $uri, @more) = @_;
        return $h->headers(1, [':method', 'POST'], [':path', $uri], @more);
    };
    my $h = HTTP2->new($t->connection);
    is $h->wait($send->($h, '/a', ['x-hook-secret', $secret]))->{status}, 200,
        'HTTP/2: a genuine webhook';
    $shim->set(stuck => 1);
    $failed = 0;
    for my $wave (1 .. 4) {
        for my $i (1 .. 24) {
            my $g = HTTP2->new($t->connection);
            my @ids = map {
                $send->($g, ($_ == 3 ? '/post/h' : '/h') . ++$n,
                    ['x-hook-secret', $secret])
            } 1 .. 4;
            $g->settle;
            $g->reset($ids[1]);
            $g->close;
        }
        $failed++ if !wait_for(sub {
            my $g = HTTP2->new($t->connection);
            return $g->wait($send->($g, '/a',
                ['x-hook-signature', Receiver::sign($secret, '')]))
                ->{status} == 200;
        });
    }
    is $failed, 0, 'clients that left hold up no delivery';
    $shim->set;
    is $h->wait($send->($h, '/h', ['x-hook-secret', $secret]))->{status}, 200,
        'the worker lives';
    $t->end;
}

done_testing;
