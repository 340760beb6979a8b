# Tests for the night of docs/operation.md: the application fails at 02:00. All
# that the page shows of it is what comes here.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver qw(wait_for);
use Shim;

Shim->usable;

my $hour = 3600;
my $zero = 1_795_824_000;                        # 2026-11-28 00:00 UTC
my $event = '{"events":[{"action":"changed"}]}';
my %secret = map { $_ => "secret-$_-" . 'n' x 40 } 1200 .. 1204;

local $ENV{TZ} = 'UTC';

my $t = Receiver->new(
    level  => 'error',
    http   => q(log_format receiver '$time_iso8601 $status $uri '
        '$asana_hook_status $asana_hook_secret_id';),
    server => 'location /api { asana_hook_api hooks write=on; }'
);
$t->{location} = "access_log $t->{dir}/receiver.log receiver;";
my $clock = Shim->new($t);

sub at {
    my ($h, $min) = @_;
    $clock->set(ahead => $zero + $h * $hour + $min * 60 - time);
    $t->call('GET', '/api/') for 1 .. 2;
    return;
}

my $logged = 0;

sub deliver {
    my ($status, @ids) = @_;
    for my $id (@ids) {
        is $t->deliver("/receive-webhook/$id", $secret{$id}, $event)->{status},
            $status, "$id: $status";
        $logged++;
        wait_for(sub {
            (() = $t->slurp('receiver.log') =~ / VERIFIED /g) >= $logged;
        });
    }
    return;
}

# What a command or a file says, in a frame of the page.

my $page = do { local (@ARGV, $/) = 'docs/operation.md'; <> };
$page =~ s/.*^### A night on[^\n]*\n(.*?)^##.*/$1/ms or die "no night\n";

# Which deliveries the zone has counted depends on what it held then, and the
# seconds on how busy the host is.

sub same {
    my ($text) = @_;
    return $text =~ s/ +\d+$/ N/mgr =~ s/(\d\d:\d\d):\d\d/$1:00/gr;
}

sub shows {
    my ($text, $name) = @_;
    s/^(\d\S+ \S+ \[\w+\]) [\d#]+: \*\d+ /$1 /mg, s/ while closing.*//mg,
        s/, client: .*//mg
        for $text;
    my $shown = index same($page), same("```text\n$text```\n");
    ok $shown >= 0, $name or diag $text;
    return;
}

sub tool {
    my (@args) = @_;
    local %ENV = (%ENV, %{ $t->{env} });
    open my $out, '-|', 'tools/asana-hook', '--url',
        "http://127.0.0.1:$t->{port}/api/", @args or die "asana-hook: $!\n";
    local $/ = undef;
    return shows("\$ asana-hook @args\n" . <$out>, "asana-hook @args");
}

sub tail {
    my ($name, $n) = @_;
    my @lines = $t->slurp($name) =~ /([^\n]*\n)/g;
    splice @lines, 0, -$n;
    return shows(join('', @lines), $name);
}

sub metric {
    my ($name) = @_;
    my ($n) = $t->call('GET', '/api/metrics')->{body}
        =~ /^asana_hook_$name (\d+)$/m;
    return $n;
}

$clock->set(ahead => $zero - time);
$t->app->run($t->conf =~ s/server_name \Klocalhost/hooks.example.com/r);
at(0, 30);
for my $id (sort keys %secret) {
    is $t->handshake("/receive-webhook/$id", $secret{$id})->{status}, 200,
        "$id: a handshake";
}
at(1, 55);
deliver(200, sort keys %secret);

# 02:00

$t->answer(500);
at(2, 0);
deliver(500, 1200);
at(2, 4);
deliver(500, 1200, 1202);
at(2, 11);
deliver(500, 1202);
at(2, 15);
$t->call('GET', '/api/metrics');
ok wait_for(sub { (metric('hooks_failing_seconds\{.*?\}') || 0) >= 900 }),
    'for 15 minutes: the alert';
is metric('hooks\{zone="hooks",health="failing"\}'), 2, 'two of them fail';
at(2, 20);
tail('error.log', 2);
tool('list', '--health', 'failing');
tail('receiver.log', 4);

# 02:31

$t->answer(200);
at(2, 31);
deliver(200, 1200);
tool('list', '--health', 'failing');
at(2, 42);
deliver(200, 1202);
tool('list', '--health', 'failing');
tool('list');

$t->end;
done_testing;
