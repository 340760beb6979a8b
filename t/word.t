# Tests for the request header X-Asana-Hook-Status: the application gets it
# from the module alone, whatever a client sends and whatever way it takes.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver qw(port request response sign wait_for);
use HTTP2;

my $secret = 'a-secret-of-printable-text-0123456789';
my $body   = '{"events":[{"action":"changed"}]}';
my @forged = (
    'X-Asana-Hook-Status: FORGED',
    'x-asana-hook-status: FORGED',
    'X_Asana_Hook_Status: FORGED',
    'X-ASANA_hook-STATUS: FORGED',
    'X.Asana.Hook.Status: FORGED',
    'X-Asana-Hook-Status: FORGED'
);

# What the application got: [method and path, values of the header], ...

sub got {
    my ($t, $n) = @_;
    my @seen;
    wait_for(sub { push @seen, $t->seen; @seen >= $n }, 10);
    return map {
        my $head = $_->[0];
        my ($line) = $head =~ /^(\S+ \S+)/;
        my @values = $head =~ /^x.asana.hook.status: *(.*?)\r?$/mgi;
        join ' ', $line, grep {length} @values;
    } @seen;
}

sub server {
    my ($port) = @_;
    my $app = "proxy_pass http://127.0.0.1:$port;";
    return <<"END";
    underscores_in_headers on;
    ignore_invalid_headers off;
    error_page 400 = /plain/400;
    location = /hooked { asana_hook hooks; $app }
    location /plain { proxy_ignore_headers X-Accel-Redirect; $app }
    location = /dry { asana_hook hooks; asana_hook_dry_run on; $app }
    location = /off { asana_hook off; $app }
    location = /gateway { asana_hook_gateway hooks; $app }
    location = /mirror {
        asana_hook hooks; mirror /copy; mirror /copy2; $app
    }
    location = /copy { internal; $app }
    location = /copy2 { internal; asana_hook hooks; $app }
    location = /auth { asana_hook hooks; auth_request /check; $app }
    location = /check {
        internal; proxy_pass_request_body off;
        proxy_set_header Content-Length ""; $app
    }
    location = /ssi { asana_hook hooks; ssi on; ssi_types *; $app }
    location = /e404 {
        asana_hook hooks; proxy_intercept_errors on;
        error_page 404 = /plain/404; $app
    }
    location = /e403 { asana_hook hooks; error_page 403 = \@named; $app }
    location = /e404auth {
        asana_hook hooks; proxy_intercept_errors on;
        error_page 404 = /authplain; $app
    }
    location = /authplain { auth_request /check; mirror /copy; $app }
    location \@named { proxy_ignore_headers X-Accel-Redirect; $app }
    location = /try { asana_hook hooks; try_files /none /plain/try; }
    location = /trynamed { asana_hook hooks; try_files /none \@named; }
    location = /rewrite { rewrite ^ /hooked last; }
    location = /unrewrite { asana_hook hooks; rewrite ^ /plain/r last; }
    location = /post { asana_hook hooks; post_action /plain/post; $app }
    location = /back {
        asana_hook hooks; error_page 403 = /hooked; $app
    }
END
}

my $t = Receiver->new;
$t->{server} = server($t->{app_port});
(my $conf = $t->conf) =~ s/(asana_hook_zone) \S+/$1 global/;
$t->app->run($conf);

is $t->handshake('/hooked', $secret)->{status}, 200, 'handshake';

sub signed {
    my ($uri) = @_;
    return $t->deliver($uri, $secret, $body, @forged)->{status};
}

sub unsigned {
    my ($uri, $method) = @_;
    return $t->call($method || 'POST', $uri, [@forged], $body)->{status};
}

# the verdict of the location, or nothing

is signed('/hooked'), 200, 'a delivery';
is_deeply [got($t, 1)], ['POST /hooked VERIFIED'], 'one word, the true one';
is $t->deliver('/hooked', $secret, '{"events":[]}')->{status}, 200,
    'a heartbeat';
is_deeply [got($t, 1)], ['POST /hooked HEARTBEAT'], 'HEARTBEAT';
is $t->call('GET', '/hooked', [@forged])->{status}, 200, 'a GET';
is_deeply [got($t, 1)], ['GET /hooked UNCHECKED'], 'UNCHECKED';
is unsigned('/dry'), 200, 'a dry run';
is_deeply [got($t, 1)], ['POST /dry UNSIGNED_DRY_RUN'], 'with its suffix';
is signed('/rewrite'), 200, 'rewritten to a hooked location';
is_deeply [got($t, 1)], ['POST /hooked VERIFIED'], 'VERIFIED';
is signed('/unrewrite'), 200, 'rewritten to another one';
is_deeply [got($t, 1)], ['POST /plain/r'], 'nothing';

for my $uri (qw(/plain/x /off /gateway)) {
    for my $method (qw(POST GET PUT)) {
        is unsigned($uri, $method), 200, "$method $uri";
        is_deeply [got($t, 1)], ["$method $uri"], 'nothing';
    }
}

for my $header (@forged) {
    is $t->call('POST', '/plain/x', [$header], '')->{status}, 200, $header;
    is_deeply [got($t, 1)], ['POST /plain/x'], 'alone: nothing';
    is $t->deliver('/hooked', $secret, $body, $header)->{status}, 200, $header;
    is_deeply [got($t, 1)], ['POST /hooked VERIFIED'], 'alone: VERIFIED';
}

# more headers than one part of nginx's list holds

my @many = map { ("X-Other-$_: $_", 'X-Asana-Hook-Status: FORGED') } 1 .. 60;
is $t->deliver('/hooked', $secret, $body, @many)->{status}, 200, 'many headers';
my @seen = $t->seen;
is join(' ', $seen[0][0] =~ /^X-Other-\d+: (\d+)/mg), join(' ', 1 .. 60),
    'all others arrive';
unlike $seen[0][0], qr/FORGED/, 'and none of these';
like $seen[0][0], qr/^X-Asana-Hook-Status: VERIFIED\r?$/m, 'but the word';

# subrequests carry nothing, and take nothing

is signed('/mirror'), 200, 'mirror';
is_deeply [sort(got($t, 3))],
    ['POST /copy', 'POST /copy2', 'POST /mirror VERIFIED'],
    'only the delivery has the word';
is signed('/auth'), 200, 'auth_request';
is_deeply [sort(got($t, 2))], ['GET /check', 'POST /auth VERIFIED'],
    'only the delivery has the word';
$t->answer(200, "Content-Type: text/html\r\n",
    '<!--# include virtual="/plain/s" --> <!--# include virtual="/hooked" -->');
is signed('/ssi'), 200, 'SSI';
is_deeply [sort(got($t, 3))],
    ['GET /hooked', 'GET /plain/s', 'POST /ssi VERIFIED'],
    'only the delivery has the word';
$t->answer(200, '', 'app');

# internal redirects to locations that are not hooked

$t->answer(404, '', 'app');
is signed('/e404'), 404, 'error_page';
is_deeply [got($t, 2)], ['POST /e404 VERIFIED', 'GET /plain/404'], 'nothing';
$t->answer(404, "X-Accel-Redirect: /plain/accel\r\n", '');
is signed('/hooked'), 404, 'X-Accel-Redirect';
is_deeply [got($t, 2)], ['POST /hooked VERIFIED', 'GET /plain/accel'],
    'nothing';
$t->answer(200, "X-Accel-Redirect: \@named\r\n", '');
is signed('/hooked'), 200, 'X-Accel-Redirect to a named location';
is_deeply [got($t, 2)], ['POST /hooked VERIFIED', 'POST /hooked'], 'nothing';
$t->answer(200, '', 'app');
is unsigned('/e403'), 200, 'a rejected one, in a location that is not hooked';
is_deeply [got($t, 1)], ['POST /e403'], 'nothing';
is signed('/try'), 200, 'try_files';
is_deeply [got($t, 1)], ['POST /plain/try'], 'nothing';
is signed('/trynamed'), 200, 'try_files and a named location';
is_deeply [got($t, 1)], ['POST /trynamed'], 'nothing';
is signed('/post'), 200, 'post_action';
is_deeply [got($t, 2)], ['POST /post VERIFIED', 'POST /plain/post'], 'nothing';
is unsigned('/back'), 403, 'rejected, and redirected to a hooked location';
is scalar(@seen = $t->seen), 0, 'nothing arrives';

# the guard and the mirror of such a location

$t->answer(404, '', 'app');
signed('/e404auth');
is_deeply [got($t, 2)], ['POST /e404auth VERIFIED', 'GET /check'], 'nothing';
$t->answer(200, '', 'app');

# nginx redirects what it could not read before any phase

is $t->call('GET', '/hooked', ['Host: other', @forged])->{status}, 200,
    'a request with two hosts';
is_deeply [got($t, 1)], ['GET /plain/400'], 'nothing';
unlike join('', map { $_->[0] } @seen), qr/FORGED/, 'of it';
is $t->http("GET /plain/9\r\n")->{status}, 0, 'HTTP/0.9';
is_deeply [got($t, 1)], ['GET /plain/9'], 'nothing';
is $t->http("GET /hooked\r\n")->{status}, 0, 'HTTP/0.9';
is_deeply [got($t, 1)], ['GET /hooked UNCHECKED'], 'UNCHECKED';
$t->end;

# HTTP/2

SKIP: {
    $t = Receiver->new;
    skip 'nginx has no HTTP/2', 1 if ($t->nginx('-V'))[1] !~ /http_v2_module/;
    $t->{server} = server($t->{app_port});
    ($conf = $t->conf) =~ s/(listen 127.0.0.1:\d+);/$1 http2;/;
    $conf =~ s/(asana_hook_zone) \S+/$1 global/;
    $t->app->run($conf);
    my $send = sub {
        my ($uri, @more) = @_;
        my $h  = HTTP2->new($t->connection);
        my $id = $h->headers(1, [':method', 'POST'], [':path', $uri], @more,
            map { [split /: /, lc($_) =~ s/forged/FORGED/r] } @forged);
        return $h->wait($id)->{status};
    };
    is $send->('/plain/x'), 200, 'HTTP/2';
    is_deeply [got($t, 1)], ['POST /plain/x'], 'nothing';
    is $send->('/hooked', ['x-hook-secret', $secret]), 200, 'a handshake';
    is $send->('/hooked', ['x-hook-signature', sign($secret, '')]), 200,
        'a delivery';
    is_deeply [got($t, 1)], ['POST /hooked VERIFIED'], 'VERIFIED';
    is $send->('/mirror', ['x-hook-signature', sign($secret, '')]), 200,
        'mirror';
    is_deeply [sort(got($t, 3))],
        ['POST /copy', 'POST /copy2', 'POST /mirror VERIFIED'], 'the same';
    $t->end;
}

# A server that hands out the bytes that it got, and answers in its protocol.

sub record {
    my ($type, $text) = @_;
    return pack('CCnnCC', 1, $type, 1, length $text, 0, 0) . $text;
}

my %answer = (
    fastcgi => record(6, "Status: 200 OK\r\n\r\napp")
        . record(6, '')
        . record(3, "\0" x 8),
    uwsgi => "HTTP/1.1 200 OK\r\n\r\napp",
    scgi  => "Status: 200 OK\r\n\r\napp"
);

sub serve {
    my ($kind) = @_;
    my $listen = IO::Socket::INET->new(
        LocalAddr => '127.0.0.1',
        LocalPort => $t->{app_port},
        Listen    => 16,
        ReuseAddr => 1
    ) or die $!;
    my $pid = fork;
    die $! unless defined $pid;
    if ($pid) {
        push @{ $t->{pids} }, $pid;
        return;
    }
    my $n = 0;
    while (my $c = $listen->accept) {
        my $raw = '';
        while (index($raw, $body) < 0) {
            sysread $c, $raw, 65536, length $raw or last;
        }
        $t->write_file('seen/new', $raw);
        rename "$t->{dir}/seen/new", sprintf '%s/seen/%06d', $t->{dir}, ++$n;
        print {$c} $answer{$kind};
        close $c;
    }
    POSIX::_exit(0);
}

for my $kind (sort keys %answer) {
    $t = Receiver->new;
    serve($kind);
    $t->{server} = 'underscores_in_headers on; ignore_invalid_headers off;'
        . "location /plain { proxy_pass http://127.0.0.1:$t->{app_port}; }";
    ($conf = $t->conf)
        =~ s/proxy_pass [^;]*;/${kind}_pass 127.0.0.1:$t->{app_port};/g;
    $t->run($conf);
    is $t->handshake('/a', $secret)->{status}, 200, "${kind}_pass: handshake";
    my $raw = sub { return join '', map { join '', @$_ } $t->seen };

    is signed('/a'), 200, 'a delivery';
    my $text = $raw->();
    like $text, qr/HTTP_X_ASANA_HOOK_STATUS.{0,2}VERIFIED/s, 'has the word';
    unlike $text, qr/FORGED/, 'and no other';
    is unsigned('/plain'), 200, 'another location';
    $text = $raw->();
    like $text, qr/\Q$body\E/, 'gets the request';
    unlike $text, qr/FORGED|VERIFIED/, 'and no word';
    $t->end;
}

SKIP: {
    $t = Receiver->new;
    skip 'nginx has no HTTP/2', 1 if ($t->nginx('-V'))[1] !~ /http_v2_module/;

    # an nginx without a zone hands on what it gets

    my $inner = Receiver->new;
    ($conf = $inner->conf) =~ s/(listen 127.0.0.1:\d+);/$1 http2;
        underscores_in_headers on; ignore_invalid_headers off;/;
    $conf =~ s/^ *asana_hook\w* .*;$//mg;
    $inner->app->run($conf);

    my $grpc = "grpc_pass grpc://127.0.0.1:$inner->{port};";
    $t->{server} = 'underscores_in_headers on; ignore_invalid_headers off;'
        . "location /plain { $grpc }";
    ($conf = $t->conf) =~ s/proxy_pass [^;]*;/$grpc/g;
    $t->run($conf);
    is $t->handshake('/a', $secret)->{status}, 200, 'grpc_pass: handshake';
    is signed('/a'), 200, 'a delivery';
    is_deeply [got($inner, 1)], ['POST /a VERIFIED'], 'VERIFIED';
    is unsigned('/plain'), 200, 'another location';
    is_deeply [got($inner, 1)], ['POST /plain'], 'nothing';
    $t->end;
    $inner->end;
}

# without a zone nginx is left as it is

$t = Receiver->new;
($conf = $t->conf) =~ s/^ *asana_hook\w* .*;$//mg;
$t->app->run($conf);
$t->call('GET', '/a', ['X-Asana-Hook-Status: MINE']);
is_deeply [got($t, 1)], ['GET /a MINE'], 'no zone: what a client says stays';
$t->end;

done_testing;
