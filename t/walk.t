# Tests for walks through the whole store: keys by their health or by a part of
# their text, and how many there are of each health.

use strict;
use warnings;

use lib 't/lib';

use JSON::PP qw(decode_json);
use Test::More;
use Time::Piece;

use Postgres;
use Receiver qw(raw request response sign wait_for);

my $body   = '{"events":[{"action":"changed"}]}';
my $filled = 'bench-00000000000000000000000001';
my $secret = 'a-secret-of-printable-text-0123456789';

sub receiver {
    my (%opt) = @_;
    return Receiver->new(
        workers  => 2,
        location => 'asana_hook_enroll $enroll;',
        http     => 'map $arg_p $enroll { default first; confirm confirm; }',
        server   => 'location /api { asana_hook_api hooks write=on; }',
        %opt
    );
}

sub get {
    my ($t, $args) = @_;
    my $r = $t->call('GET', "/api/hooks?$args");
    die "$args: $r->{status} $r->{body}" if $r->{status} != 200;
    return decode_json($r->{body});
}

# All of them, page by page; the number of calls that it took.

sub all {
    my ($t, $args) = @_;
    my ($after, $calls, @hooks) = ('', 0);
    while ($calls++ < 1000) {
        my $page = get($t, $args . $after);
        push @hooks, @{ $page->{hooks} };
        last if !defined $page->{next};
        $after = "&after=$page->{next}";
    }
    return ($calls, @hooks);
}

sub keys_of { my @hooks = @_; return map { $_->{key} } @hooks }

# Counts are asked for again and again, and come a moment later.

sub counts {
    my ($t, %want) = @_;
    my $got;
    my $ok = wait_for(sub {
        $got = decode_json($t->call('GET', '/api/')->{body})->{health};
        return $got && !grep { $got->{$_} != $want{$_} } keys %want;
    }, 30);
    is_deeply [map { $got->{$_} } sort keys %want],
        [map { $want{$_} } sort keys %want], 'counts: ' . join ' ',
        map {"$_ $want{$_}"} sort keys %want;
    cmp_ok $got->{age}, '<=', 30, 'and their age';
    return;
}

sub check_filters {
    my ($t, $n, $health) = @_;
    my %want = (new => 4, ok => 1, failing => 1, pending => 1, late => 0,
        dead => 0);
    $want{$health} += $n;

    my @keys = map { "localhost/few/$_" } qw(Ab ab abc fails well z%2F);
    s/%2F/%/ for @keys;
    is $t->handshake("/few/$_", $secret)->{status}, 200, "a handshake: $_"
        for qw(Ab ab abc fails well z%25);
    is $t->handshake('/few/waits?p=confirm', $secret)->{status}, 200,
        'and one that is pending';
    $t->answer(500);
    is $t->deliver('/few/fails', $secret, $body)->{status}, 500, 'one fails';
    $t->answer(200);
    is $t->deliver('/few/well', $secret, $body)->{status}, 200, 'one is well';

    wait_for(sub { get($t, 'health=failing&q=few')->{hooks}[0] });
    my ($calls, @hooks) = all($t, 'health=failing');
    is join(' ', keys_of(@hooks)), 'localhost/few/fails', 'what fails';
    is $hooks[0]{health}, 'failing', 'is shown as such';
    my $since = $hooks[0]{secrets}[0]{failing_since};
    is $hooks[0]{secrets}[0]{deliveries}, 1,
        'with what the zone alone knows';
    ($calls, @hooks) = all($t, 'health=ok&q=few%2F');
    is join(' ', keys_of(@hooks)), 'localhost/few/well', 'what is well';
    ($calls, @hooks) = all($t, 'health=pending');
    is join(' ', keys_of(@hooks)), 'localhost/few/waits', 'what is pending';
    ($calls, @hooks) = all($t, 'health=dead');
    is @hooks, 0, 'nothing is dead';

    ($calls, @hooks) = all($t, 'q=few%2Fa');
    is join(' ', keys_of(@hooks)), 'localhost/few/ab localhost/few/abc',
        'a part of the key, case by case';
    ($calls, @hooks) = all($t, 'q=z%25');
    is join(' ', keys_of(@hooks)), 'localhost/few/z%', 'percent-encoded';
    ($calls, @hooks) = all($t, 'q=' . 'x' x 480);
    is @hooks, 0, 'longer than any key';
    ($calls, @hooks) = all($t, 'q=few%2F&limit=2');
    is join(' ', keys_of(@hooks)), join(' ', sort 'localhost/few/waits',
        @keys), 'page by page';
    ($calls, @hooks) = all($t, 'q=few%2F&health=new&limit=1');
    is join(' ', keys_of(@hooks)),
        join(' ', map {"localhost/few/$_"} qw(Ab ab abc z%)), 'both together';

    ($calls, @hooks) = all($t, "health=$health&limit=1000");
    is @hooks, $want{$health}, "all that are $health";
    my @sorted = sort(keys_of(@hooks));
    is_deeply [keys_of(@hooks)], \@sorted, 'in their order';
    is scalar(grep { $sorted[$_] eq $sorted[$_ - 1] } 1 .. $#sorted), 0,
        'each of them once';
    cmp_ok $calls, '<=', $n / 1000 + 3, "with $calls calls";

    counts($t, %want);
    my $text = $t->call('GET', '/api/metrics')->{body};
    is_deeply {$text =~ /^asana_hook_hooks\{.*health="(\w+)"\} (\d+)$/mg},
        \%want, 'in the metrics as well';
    like $text, qr/^asana_hook_hooks_age_seconds\{zone="hooks"\} \d+$/m,
        'with their age';
    my ($first) = $text =~ /^asana_hook_hooks_failing_seconds\{.*\} (\d+)$/m;
    $since = Time::Piece->strptime($since, '%Y-%m-%dT%H:%M:%SZ')->epoch;
    cmp_ok abs(time - $since - $first), '<=', 2, 'and how long the first fails';

    # what was asked for wrongly

    for my $args (qw(health= health=Failing health=fail health=ok&health=ok
        q= q=%0A q=a&q=b key=a&q=a key=a&health=ok), 'health=failing,dead',
        'q=' . 'x' x 481) {
        is $t->call('GET', "/api/hooks?$args")->{status}, 400,
            'no good: ' . substr $args, 0, 20;
    }
    is $t->call('DELETE', '/api/hooks?key=a&q=a')->{status}, 400,
        'nor for DELETE';

    # those who ask and leave; handshakes go on meanwhile

    for my $i (1 .. 20) {
        my $s = $t->connection;
        request($s, "GET /api/hooks?q=nothing$i HTTP/1.1\r\nHost: a\r\n\r\n");
        close $s;
        is $t->handshake("/more/$i", $secret)->{status}, 200,
            'a handshake beside a walk' if $i % 5 == 0;
    }
    ok $t->reload, 'a reload';
    ($calls, @hooks) = all($t, 'q=few%2Fwell');
    is @hooks, 1, 'and it goes on';
    unlike $t->call('GET', '/api/hooks?q=few')->{body}, qr/$secret/,
        'no secret is shown';
    return;
}

# a directory that was filled before

my $n = 25_000;
my $t = receiver(zone => "max_size=256m");
system(($ENV{CC} || 'cc'), '-O2', '-o', "$t->{dir}/fill", 'bench/store.c',
    '-llmdb', '-lcrypto') == 0 or die "bench/store.c does not compile\n";
mkdir "$t->{dir}/state", 0700;
system("$t->{dir}/fill", "$t->{dir}/state", 1 << 28, 'fill', $n) == 0
    or die "the store cannot be filled\n";
if ($> == 0) {
    system 'chown', '-R', 'www-data', "$t->{dir}/state";
}
$t->app->run;

is decode_json($t->call('GET', '/api/')->{body})->{health}, undef,
    'nothing was counted yet';
unlike $t->call('GET', '/api/metrics')->{body}, qr/asana_hook_hooks/,
    'nor told';
my $page = get($t, 'q=0024999');
is @{ $page->{hooks} }, 0, 'a page that has found nothing yet';
is $page->{next}, 'localhost%2Freceive-webhook%2F0020479',
    'says where to go on';
is join(' ', keys_of(@{ get($t, "q=0024999&after=$page->{next}")->{hooks} })),
    'localhost/receive-webhook/0024999', 'where it is found';
check_filters($t, $n, 'ok');
$t->end;

# a fleet

SKIP: {
    my $missing = Postgres::missing();
    skip $missing, 1 if $missing;
    my $pg = Postgres->new;
    $t = receiver(
        fleet => $pg->uri,
        zone  => "encryption_key=$pg->{dir}/key poll=300ms"
    );
    $t->app->run;
    $n = 1500;
    is scalar(grep { $_->{status} != 200 } $t->many(map {
        raw("/receive-webhook/$_", "X-Hook-Secret: $secret", '') } 1 .. $n)),
        0, 'handshakes';
    check_filters($t, $n, 'new');
    $t->end;
}

done_testing;
