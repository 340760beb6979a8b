# Tests for internal redirects: a verified delivery keeps its verdict, key and
# count within its zone, everything else is judged again, nothing counts twice.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver qw(wait_for port);

my $secret = 'a-secret-of-printable-text-0123456789';
my $body   = '{"events":[{"action":"changed"}]}';
my $t      = Receiver->new;
my $dead   = port();
my $app    = "proxy_pass http://127.0.0.1:$t->{app_port};";

$t->{http} = "asana_hook_zone \$server_name\$uri zone=second:1m
    state=$t->{dir}/state2;";
$t->{server} = <<"END";
    root $t->{dir};
    asana_hook hooks;
    recursive_error_pages on;
    location /php { try_files \$uri /index.php; }
    location = /index.php { $app }
    location /named { try_files \$uri \@named; }
    location \@named { proxy_ignore_headers X-Accel-Redirect; $app }
    location /dead {
        error_page 502 /50x.html; proxy_pass http://127.0.0.1:$dead;
    }
    location /deadapp {
        error_page 502 /index.php; proxy_pass http://127.0.0.1:$dead;
    }
    location = /50x.html { }
    location /accel { $app }
    location /files { proxy_ignore_headers X-Accel-Redirect; $app }
    location /chain {
        error_page 502 = /plain; proxy_pass http://127.0.0.1:$dead;
    }
    location = /plain {
        asana_hook off; error_page 418 = \@named; return 418;
    }
    location /second { try_files \$uri /other; }
    location = /other { asana_hook second; error_page 403 = \@named; $app }
    location /e403 { error_page 403 = /index.php; $app }
    location /n403 { error_page 403 = \@named; $app }
    location /answer { try_files \$uri \@answer; }
    location \@answer { asana_hook_heartbeat answer; $app }
    location /api { asana_hook off; asana_hook_api hooks; }
    location /api2 { asana_hook off; asana_hook_api second; }
END
$t->write_file('50x.html', 'sorry');
$t->app->run;

sub counts {
    my ($api) = @_;
    my $text = $t->call('GET', ($api || '/api') . '/metrics')->{body};
    return join ' ', sort map {s/"\} /=/r}
        $text =~ /^asana_hook_deliveries_total\{.*result="(\w+"\} [1-9]\d*)$/mg;
}

# What a request adds to the counters, with its status and what the log says.

sub outcome {
    my ($send) = @_;
    my %before = map { split /=/ } split / /, counts();
    $t->words;
    my $r = $send->();
    my $line;
    wait_for(sub {
        $t->words;
        return ($line) = grep { !m{^\S+ /api} } @{$t->{lines}};
    });
    my ($word, $key) = $line =~ /\[(\w*-?)\] \[(\S*)\] /;
    my %after = map { split /=/ } split / /, counts();
    $t->words;
    my @more = map {"$_+" . ($after{$_} - ($before{$_} || 0))}
        grep { $after{$_} != ($before{$_} || 0) } sort keys %after;
    return join ' ', $r->{status}, $word, $key, @more;
}

sub delivery {
    my ($uri, $content, $with) = @_;
    return outcome(
        sub { $t->deliver($uri, $with || $secret, $content || $body) });
}

my @uris
    = qw(/php/1 /named/1 /dead/1 /deadapp/1 /accel/1 /chain/1 /answer/1);

for my $uri (@uris, '/second/1', '/e403/1', '/n403/1') {
    is $t->handshake($uri, $secret)->{status}, 200, "handshake at $uri";
}

$t->answer(200, "X-Accel-Redirect: /files/1\r\n", '');
is delivery('/accel/1'), '200 VERIFIED localhost/accel/1 verified+1',
    'X-Accel-Redirect';
my @seen = $t->seen;
is scalar(@seen), 2, 'the application is asked twice';
like $_->[0], qr/^X-Asana-Hook-Status: VERIFIED\r?$/m, 'with the word'
    for @seen;
$t->answer(200, "X-Accel-Redirect: \@named\r\n", '');
is delivery('/accel/1', '{"events":[]}'),
    '200 HEARTBEAT localhost/accel/1 heartbeat+1', 'a heartbeat';
$t->answer(200, '', 'app');
$t->seen;

for my $case (
    ['/php/1',     200, 1, 'try_files'],
    ['/named/1',   200, 1, 'a named location'],
    ['/dead/1',    502, 0, 'error_page'],
    ['/deadapp/1', 502, 1, 'error_page to an application'],
    ['/chain/1',   200, 1, 'over a location that is not hooked']
    )
{
    my ($uri, $status, $n, $name) = @$case;
    is delivery($uri), "$status VERIFIED localhost$uri verified+1", $name;
    @seen = $t->seen;
    is scalar(@seen), $n, 'arrives once if at all';
    like $seen[0][0], qr/^X-Asana-Hook-Status: VERIFIED\r?$/m, 'with the word'
        if $n;
    is delivery($uri, $body, "$secret-other"),
        "403 INVALID localhost$uri invalid+1", 'a forged one is rejected';
    is outcome(sub { $t->call('POST', $uri, [], $body) }),
        '403 UNSIGNED - unsigned+1', 'an unsigned one';
    is scalar(@seen = $t->seen), 0, 'nothing arrives';
}

is delivery('/answer/1', '{"events":[]}'),
    '200 HEARTBEAT localhost/answer/1 heartbeat+1',
    'the new location answers heartbeats';
is scalar(@seen = $t->seen), 0, 'nothing arrives';

# what was rejected is judged again, and counted once

for my $uri (qw(/e403/1 /n403/1)) {
    is delivery($uri), "200 VERIFIED localhost$uri verified+1", $uri;
    $t->seen;
    like delivery($uri, $body, "$secret-other"),
        qr/^403 (INVALID|UNKNOWN) \S+ invalid\+1$/, 'a forged one';
    is outcome(sub { $t->call('POST', $uri, [], $body) }),
        '403 UNSIGNED - unsigned+1', 'an unsigned one';
    is scalar(@seen = $t->seen), 0, 'nothing arrives';
}

# another zone knows another secret, and its verdict is worth nothing here

is delivery('/second/1') =~ s/ verified.*//r, '403 UNKNOWN localhost/other',
    'another zone judges again';
is counts('/api2'), 'unknown=1', 'and counts it';
is scalar(@seen = $t->seen), 0, 'nothing arrives';
is $t->handshake('/other', "$secret-2")->{status}, 200, 'handshake';
$t->deliver('/second/1', $secret, $body);
is counts('/api2'), 'invalid=1 unknown=1', 'INVALID there';
is scalar(@seen = $t->seen), 0, 'nothing arrives';

$t->secrecy($secret);
$t->end;

done_testing;
