# Tests for the examples in conf/: each is started and driven as it stands,
# but for ports, hosts and paths.

use strict;
use warnings;

use lib 't/lib';

use Cwd qw(getcwd);
use IO::Socket::SSL qw(SSL_VERIFY_PEER);
use IO::Socket::UNIX;
use JSON::PP qw(decode_json);
use Test::More;

use Postgres;
use Receiver qw(port request response secret_id sign wait_for);

# nginx leaves the TLS sessions with its upstreams to the end of the process

$ENV{ASAN_OPTIONS} =~ s/detect_leaks=1/detect_leaks=0/ if $ENV{ASAN_OPTIONS};

my $secret = 'a-secret-of-printable-text-0123456789';
my $body   = '{"events":[{"action":"changed"}]}';
my $home   = Receiver->new;
my $ca     = certificates("$home->{dir}");
my %driven;

# An authority, and a certificate for the names of the examples.

sub certificates {
    my ($dir) = @_;
    $home->write_file('openssl.conf', <<'END');
[req]
distinguished_name = name
[name]
[ca]
basicConstraints = critical,CA:true
[leaf]
subjectAltName = @names
[names]
DNS.1 = hooks.example.com
DNS.2 = localhost
DNS.3 = test.invalid
IP.1 = 127.0.0.1
END
    my $new = "openssl req -config $dir/openssl.conf -newkey ec"
        . ' -pkeyopt ec_paramgen_curve:P-256 -nodes -subj';
    for my $command (
        "$new /CN=ca -x509 -days 2 -extensions ca -keyout $dir/ca.key"
        . " -out $dir/ca.pem",
        "$new /CN=leaf -keyout $dir/leaf.key -out $dir/leaf.csr",
        "openssl x509 -req -in $dir/leaf.csr -CA $dir/ca.pem -days 2"
        . " -CAkey $dir/ca.key -set_serial 1 -extfile $dir/openssl.conf"
        . " -extensions leaf -out $dir/leaf.pem"
        )
    {
        my $said = qx($command 2>&1);
        $? == 0 or BAIL_OUT("openssl: $said");
    }
    return "$dir/ca.pem";
}

# A receiver with the example in the place of its own configuration.

sub example {
    my ($name, %more) = @_;
    my $t = Receiver->new(%{ delete $more{receiver} || {} });
    $t->{metrics} = port();
    $t->{tls}     = $name !~ /^(?:balancer|fleet)$/;
    $t->{example} = $name;
    mkdir "$t->{dir}/run" or die $!;
    mkdir "$t->{dir}/run/$_" or die $! for qw(app asana-hook php);
    chmod 0700, "$t->{dir}/run/asana-hook";
    $t->write_file('api.conf', adapted($t, 'api', %more));
    $t->write_file('nginx.conf', adapted($t, $name, %more));
    $driven{$_} = 1 for 'api', $name;
    return $t;
}

sub adapted {
    my ($t, $name, %more) = @_;
    my $dir = $t->{dir};
    my $so = $ENV{ASANA_HOOK_MODULE}
        || getcwd() . '/build/ngx_http_asana_hook_module.so';
    open my $fh, '<', "conf/$name.conf" or die $!;
    my $text = do { local $/ = undef; <$fh> };
    close $fh;

    $text =~ s{^load_module .*}{}mg if $ENV{ASANA_HOOK_STATIC};
    $text =~ s{^user .*}{}m        if $> != 0;
    my @paths = map {"${_}_temp_path $dir/tmp-$_;"}
        qw(client_body proxy fastcgi uwsgi scgi);
    $text =~ s/^http \{/http { @paths/m;

    (my $postgres = $so) =~ s/hook_module/hook_postgres_module/;

    my %place = (
        'modules/ngx_http_asana_hook_module.so'          => $so,
        'modules/ngx_http_asana_hook_postgres_module.so' => $postgres,
        '/var/lib/nginx'                        => $dir,
        '/var/log/nginx'                        => $dir,
        '/run/nginx.pid'                        => "$dir/nginx.pid",
        'unix:/run/'                            => "unix:$dir/run/",
        '/etc/ssl/hooks.example.com.pem'         => "$home->{dir}/leaf.pem",
        '/etc/ssl/private/hooks.example.com.key' => "$home->{dir}/leaf.key",
        '/etc/ssl/certs/ca-certificates.crt'     => $ca,
        '443 ssl'                                => "127.0.0.1:$t->{port} ssl",
        'listen       80;'    => "listen 127.0.0.1:$t->{port};",
        '127.0.0.1:9145'      => "127.0.0.1:$t->{metrics}",
        '127.0.0.1:8000'      => "127.0.0.1:$t->{app_port}",
        '10.0.0.0/8'          => '127.0.0.0/8',
        %more
    );
    for my $from (sort { length $b <=> length $a } keys %place) {
        $text =~ s/\Q$from\E/$place{$from}/g;
    }
    return $text;
}

sub started {
    my ($t) = @_;
    $t->run($t->slurp('nginx.conf'));
    return $t;
}

# Sends a request as Asana would, and returns its answer.

sub send_to {
    my ($t, $method, $uri, $content, @headers) = @_;
    my $s = $t->{tls}
        ? IO::Socket::SSL->new(
            PeerAddr            => "127.0.0.1:$t->{port}",
            SSL_hostname        => 'hooks.example.com',
            SSL_verifycn_name   => 'hooks.example.com',
            SSL_verifycn_scheme => 'http',
            SSL_verify_mode     => SSL_VERIFY_PEER,
            SSL_ca_file         => $ca
        )
        : $t->connection;
    die "connect: $IO::Socket::SSL::SSL_ERROR\n" if !$s;
    request($s, join "\r\n", "$method $uri HTTP/1.1",
        'Host: hooks.example.com', 'Connection: close', @headers,
        defined $content ? 'Content-Length: ' . length $content : (),
        '', defined $content ? $content : '');
    my $r = response($s);
    close $s;
    return $r;
}

sub shake {
    my ($t, $uri, $with) = @_;
    return send_to($t, 'POST', $uri, '', "X-Hook-Secret: $with");
}

# A delivery that claims to be verified already.

sub deliver {
    my ($t, $uri, $with, $content) = @_;
    return send_to($t, 'POST', $uri, $content,
        'X-Hook-Signature: ' . sign($with, $content),
        'X-Asana-Hook-Status: VERIFIED', 'X_Asana_Hook_Status: VERIFIED',
        'Asana-Hook-Status: VERIFIED');
}

sub tool {
    my ($t, @args) = @_;
    open my $out, '-|', $^X, 'tools/asana-hook', '--unix',
        "$t->{dir}/run/asana-hook/api.sock", @args
        or die $!;
    my $text = do { local $/ = undef; <$out> };
    close $out;
    return defined $text ? $text : '';
}

# What all examples do.  The code returns what the application got since it
# was called last, and the word that came with it.

sub drive {
    my ($t, $uri, $got, $after) = @_;
    my $name = $t->{example};
    my $path = $uri =~ s/\?.*//r;

    is send_to($t, 'GET', '/else', undef)->{status}, 404, "$name: no webhook";
    my $r = shake($t, $uri, $secret);
    is $r->{status}, 200, 'a handshake is answered'
        or diag $t->slurp('error.log');
    like $r->{head}, qr/^X-Hook-Secret: \Q$secret\E\r$/m, 'with its secret';
    $after->() if $after;

    is deliver($t, $uri, $secret, $body)->{status}, 200, 'a signed one passes';
    my ($raw, $word) = $got->();
    ok index($raw, $body) >= 0, 'the application has it';
    is $word, 'VERIFIED', 'and is told so';

    is send_to($t, 'GET', $uri, undef, 'X-Asana-Hook-Status: VERIFIED')
        ->{status}, 200, 'a GET passes';
    ($raw, $word) = $got->();
    is $word, 'UNCHECKED', 'and what it says of itself is overwritten';

    is deliver($t, $uri, "$secret-other", $body)->{status}, 403,
        'a forged one does not';
    is send_to($t, 'PUT', $uri, $body)->{status}, 403, 'nor an unsigned PUT';
    is scalar(() = $got->()), 0, 'nothing arrives';

    # what an application may take for the same URL

    if ($uri =~ m{^(.*/receive-webhook)/1200$}) {
        for my $other ("$uri/", "$uri%0A", "$uri%0D%0A", "$uri%00", "$uri.0",
            "$uri%2F", "$1/01200", "$1/+1200", "$1/0", uc $uri)
        {
            is shake($t, $other, "$secret-other")->{status} =~ /^40[04]$/, 1,
                "no handshake for $other";
            is deliver($t, $other, $secret, $body)->{status} =~ /^40[034]$/, 1,
                'and no delivery';
        }
        is scalar(() = $got->()), 0, 'nothing arrives';
    }

    # of a fleet it knows single keys alone

    my @list = $name eq 'fleet' ? ('show', "hooks.example.com$path") : 'list';
    like tool($t, @list), qr{^hooks\.example\.com\Q$path\E +}m,
        'the control API lists the key';
    like tool($t, @list), qr/ @{[secret_id($secret)]} +active /,
        'and the secret';
    my $s = $t->connection($t->{metrics});
    request($s, "GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    like response($s)->{body}, qr/^asana_hook_store_readable\{zone="hooks"\} 1$/m,
        'there are metrics';
    close $s;

    my $log = $t->slurp('access.log');
    like $log, qr/ POST \Q$path\E 200 HANDSHAKE [\da-f]{16}$/m,
        'the access log has the word';
    $t->secrecy($secret, sign($secret, $body));
    return;
}

# The application of Receiver.pm, as drive() wants it.

sub http_app {
    my ($t) = @_;
    return sub {
        my @seen = $t->seen or return;
        my ($head, $content) = @{ $seen[-1] };
        my @words = $head =~ /^X-Asana-Hook-Status: (.*?)\r?$/mg;
        return ($content, "@words");
    };
}

for my $name (qw(receiver many node)) {
    my $t = started(example($name)->app);
    drive($t, $name eq 'receiver' ? '/receive-webhook'
        : '/receive-webhook/1200', http_app($t));

    is shake($t, '/receive-webhook/1201', $secret)->{status},
        $name eq 'receiver' ? 404 : 200, "$name: another URL";
    is shake($t, '/receive-webhook/x', $secret)->{status}, 404,
        'one of another form';
    if ($name eq 'receiver') {
        my @codes = map {
            shake($t, '/receive-webhook', 'planted-0123456789-' . $_)->{status}
        } 1 .. 25;
        is $codes[0], 403, 'a second secret is refused';
        is $codes[-1], 503, 'many handshakes are limited';
        is deliver($t, '/receive-webhook', $secret, $body)->{status}, 200,
            'deliveries are not';
    }
    if ($name eq 'node') {
        $t->seen;
        is deliver($t, '/receive-webhook/1200', $secret, '{"events":[]}')
            ->{status}, 200, 'a heartbeat is answered';
        is scalar(() = $t->seen), 0, 'by nginx';
    }
    $t->end;
}

{
    my $t = example('token')->app;
    (my $command) = do { open my $fh, '<', 'conf/token.conf' or die $!;
        grep {/umask/} <$fh> };
    $command =~ s/^#//;
    system 'sh', '-c', "cd $t->{dir} && $command";
    is sprintf('%o', (stat "$t->{dir}/token.map")[2] & 4095), 600,
        'token: made as the example says';
    my ($token) = $t->slurp('token.map') =~ /^([\da-f]{32}) open;$/;
    started($t);
    drive($t, "/receive-webhook?token=$token", http_app($t));
    is shake($t, "/receive-webhook?token=$token", "$secret-2")->{status}, 200,
        'token: another webhook';
    is deliver($t, '/receive-webhook', "$secret-2", $body)->{status}, 200,
        'its deliveries pass';
    for my $args ('', '?token=', "?token=${token}0", '?other=1') {
        is shake($t, "/receive-webhook$args", "$secret-3")->{status}, 403,
            "a handshake with \"$args\" does not";
    }
    ok index($t->slurp('access.log'), $token) < 0,
        'the access log does not have the token';
    ok index($t->slurp('error.log'), $token) < 0, 'nor has the common error log';
    $t->end;
}

{
    my $t = started(example('balancer')->app);
    drive($t, '/receive-webhook/1200', http_app($t));
    is send_to($t, 'GET', '/health', undef)->{status}, 204, 'balancer: health';
    send_to($t, 'POST', '/receive-webhook/1200', $body,
        'X-Forwarded-For: 198.51.100.1, 203.0.113.9');
    ok wait_for(sub { $t->slurp('access.log') =~ /^203\.0\.113\.9 .*UNSIGNED/m }),
        'the client is logged, and not what it says of itself';
    $t->end;
}

# two hosts, with a database of the test instead of the example's

$driven{fleet} = 1;

SKIP: {
    my $missing = Postgres->missing;
    skip $missing, 1 if $missing;
    skip 'make found no libpq', 1
        if !$ENV{ASANA_HOOK_STATIC}
        && !-f ($ENV{ASANA_HOOK_MODULE}
            || 'build/ngx_http_asana_hook_module.so')
        =~ s/hook_module/hook_postgres_module/r;

    open my $fh, '<', 'conf/fleet.conf' or die $!;
    my $text = do { local $/ = undef; <$fh> };
    close $fh;
    my ($uri) = $text =~ /state=(postgresql:\S+)/;
    my ($command) = $text =~ /^# +(.*umask.*)/m;

    my $pg = Postgres->new;
    system 'sh', '-c', "cd $pg->{dir} && $command";
    is sprintf('%o', (stat "$pg->{dir}/asana_hook.key")[2] & 4095), 600,
        'fleet: the key is made as the example says';
    my $t = example('fleet',
        '/etc/nginx/asana_hook.key' => "$pg->{dir}/asana_hook.key");
    my ($code, $said) = $t->nginx('-t');
    is $code, 0, 'its URI is good' or diag $said;
    $t->end;

    my @hosts = map {
        started(example(
            'fleet',
            $uri                        => $pg->uri,
            '/etc/nginx/asana_hook.key' => "$pg->{dir}/asana_hook.key"
        )->app)
    } 1, 2;
    drive($hosts[0], '/receive-webhook/1200', http_app($hosts[0]));
    is deliver($hosts[1], '/receive-webhook/1200', $secret, $body)->{status},
        200, 'fleet: the other host has the secret';
    is((http_app($hosts[1])->())[1], 'VERIFIED', 'and its application is told');
    is deliver($hosts[1], '/receive-webhook/1200', "$secret-other", $body)
        ->{status}, 403, 'a forged one does not pass there';
    is send_to($_, 'GET', '/health', undef)->{status}, 204, 'health' for @hosts;
    $_->end for @hosts;
    $pg->end;
}

# FastCGI, uwsgi, and HTTP over a unix socket: a server that writes down what
# it reads

sub whole {
    my ($kind, $raw) = @_;
    if ($kind eq 'http') {
        my ($head, $content) = split /\r\n\r\n/, $raw, 2;
        return 0 if !defined $content;
        my ($length) = $head =~ /^Content-Length: (\d+)/mi;
        return length $content >= ($length || 0);
    }
    if ($kind eq 'uwsgi') {
        return 0 if length $raw < 4;
        my $size = unpack 'v', substr $raw, 1, 2;
        return 0 if length $raw < 4 + $size;
        my ($length) = $raw =~ /CONTENT_LENGTH..(\d*)/s;
        return length $raw >= 4 + $size + ($length || 0);
    }
    while (length $raw >= 8) {
        my ($type, $length, $padding) = (unpack 'CCnnC', $raw)[1, 3, 4];
        return 1 if $type == 5 && $length == 0;
        $raw = substr $raw, 8 + $length + $padding;
    }
    return 0;
}

sub record {
    my ($type, $text) = @_;
    return pack('CCnnCC', 1, $type, 1, length $text, 0, 0) . $text;
}

sub serve {
    my ($t, $kind, $path) = @_;
    my %answer = (
        fastcgi => record(6, "Status: 200 OK\r\n\r\napp")
            . record(6, '')
            . record(3, "\0" x 8),
        uwsgi => "HTTP/1.1 200 OK\r\n\r\napp",
        http  => "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\napp"
    );
    my $listen = IO::Socket::UNIX->new(Local => $path, Listen => 16) or die $!;
    chmod 0666, $path;
    my $pid = fork;
    die $! unless defined $pid;
    if (!$pid) {
        my $n = 0;
        while (my $c = $listen->accept) {
            my $raw = '';
            until (whole($kind, $raw)) {
                sysread $c, $raw, 65536, length $raw or last;
            }
            $t->write_file('seen/new', $raw);
            rename "$t->{dir}/seen/new",
                sprintf '%s/seen/%06d', $t->{dir}, ++$n;
            print {$c} $answer{$kind};
            close $c;
        }
        POSIX::_exit(0);
    }
    push @{ $t->{pids} }, $pid;

    return sub {
        my @files = sort glob "$t->{dir}/seen/0*" or return;
        my ($file) = $files[-1] =~ m{(seen/\d+)$};
        my $raw = $t->slurp($file);
        unlink @files;
        my $words
            = $kind eq 'http'  ? qr/^X-Asana-Hook-Status: (\w+)/m
            : $kind eq 'uwsgi' ? qr/HTTP_X_ASANA_HOOK_STATUS..([A-Z]+)/s
            :   qr/HTTP_X_ASANA_HOOK_STATUS([A-Z]+?)(?=[^A-Z]|HTTP_)/;
        return ($raw, join ' ', $raw =~ /$words/g);
    };
}

{
    my $t = example('fastcgi');
    my $got = serve($t, 'fastcgi', "$t->{dir}/run/php/php-fpm.sock");
    drive(started($t), '/receive-webhook/1200', $got);
    $t->end;
}

{
    my $t = example('uwsgi');
    my $got = serve($t, 'uwsgi', "$t->{dir}/run/app/uwsgi.sock");
    drive(started($t), '/receive-webhook/1200', $got);
    $t->end;

    $t   = example('uwsgi');
    $got = serve($t, 'http', "$t->{dir}/run/app/gunicorn.sock");
    drive(started($t), '/gunicorn/receive-webhook/1200', $got);
    $t->end;
}

# A resolver that knows the name of the example alone, as 127.0.0.1.

sub resolver {
    my ($t) = @_;
    my $dns = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'udp')
        or die $!;
    my $port = $dns->sockport;
    my $pid  = fork;
    die $! unless defined $pid;
    if (!$pid) {
        while (my $from = $dns->recv(my $query, 512)) {
            my $question = substr $query, 12;
            my $known = $question =~ /^\x04test\x07invalid\0\0\x01/;
            $dns->send(
                pack('a2nnnnn', $query, $known ? 0x8180 : 0x8183, 1,
                    $known ? 1 : 0, 0, 0)
                    . $question
                    . ($known ? pack('nnnNna4', 0xc00c, 1, 1, 60, 4,
                        "\x7f\0\0\1") : ''),
                0, $from
            );
        }
        POSIX::_exit(0);
    }
    push @{ $t->{pids} }, $pid;
    close $dns;
    return "127.0.0.1:$port";
}

SKIP: {
    my ($sim, $gateway) = (port(), port());

    # a name that only this resolver knows: nginx starts without DNS

    my $dns = resolver($home);
    my $t = example(
        'gateway',
        receiver         => { expect => qr/\[emerg\].*asana_hook_gateway/ },
        'app.asana.com'  => "test.invalid:$sim",
        '127.0.0.53'     => "$dns ipv6=off",
        '127.0.0.1:8081' => "127.0.0.1:$gateway"
    )->app;
    open my $fh, '<', 'conf/gateway.conf' or die $!;
    my ($command) = grep {/umask/} <$fh>;
    close $fh;
    $command =~ s/^#//;
    system 'sh', '-c', "cd $t->{dir} && $command";
    is sprintf('%o', (stat "$t->{dir}/asana-token.conf")[2] & 4095), 600,
        'gateway: the token is made as the example says';
    my ($token) = $t->slurp('asana-token.conf') =~ /"(.*)"/;

    my ($code, $said) = $t->nginx('-t');
    if ($code && $said =~ /unknown directive "asana_hook_gateway"/) {
        $t->end;
        skip 'no gateway in this module', 1;
    }

    my $pid = open my $out, '-|', $^X, 'tools/asana-sim', '--listen',
        "127.0.0.1:$sim", '--allow-local', '--token', $token, '--ca', $ca,
        '--tls-cert', "$home->{dir}/leaf.pem",
        '--tls-key', "$home->{dir}/leaf.key"
        or die $!;
    push @{ $t->{pids} }, $pid;
    like scalar(<$out>), qr/listening on https/, 'an Asana with TLS';
    started($t);

    my $call = sub {
        my ($method, $path, $form) = @_;
        my $s = $t->connection($gateway);
        request($s, join "\r\n", "$method /asana/webhooks$path HTTP/1.1",
            'Host: localhost', 'Connection: close',
            'Content-Type: application/x-www-form-urlencoded',
            'Content-Length: ' . length $form, '', $form);
        my $r = response($s, 20);
        close $s;
        return $r;
    };

    my $target = "https%3A%2F%2Flocalhost%3A$t->{port}%2Freceive-webhook%2F1200";
    my $r = $call->('POST', '', "resource=1200&target=$target");
    is $r->{status}, 201, 'the create call passes';
    my $made = decode_json($r->{body});
    my $theirs = $made->{'X-Hook-Secret'};
    ok wait_for(sub { $t->slurp('access.log')
                =~ / POST \/asana\/webhooks 201 CONFIRMED / }),
        'and its secret is registered';
    like tool($t, 'list'), qr/ @{[secret_id($theirs)]} +active /, 'and active';
    is deliver($t, '/receive-webhook/1200', $theirs, $body)->{status}, 200,
        'its deliveries pass';
    my ($content, $word) = http_app($t)->();
    is $word, 'VERIFIED', 'to the application';

    is shake($t, '/receive-webhook/1200', $secret)->{status}, 200,
        'a handshake of a stranger is answered';
    is deliver($t, '/receive-webhook/1200', $secret, $body)->{status}, 503,
        'and worth nothing';
    is scalar(() = $t->seen), 0, 'nothing arrives';

    is $call->('GET', "/$made->{data}{gid}", '')->{status}, 200,
        'the webhook is looked at through the gateway';
    my $all = $call->('GET', '?workspace=1&limit=10', '');
    is $all->{status}, 200, 'all of them are listed';
    like $all->{body}, qr/"$made->{data}{gid}"/, 'with their arguments';
    is $call->('GET', $_, '')->{status}, 404, "nothing else is Asana's: $_"
        for '/../users/me', '/1/2', '/x', 's';
    is $call->('DELETE', "/$made->{data}{gid}", '')->{status}, 200,
        'and deleted';
    $t->secrecy($secret, $theirs, $token);

    # without DNS it starts all the same

    (my $deaf = $t->slurp('nginx.conf')) =~
        s/\Q$dns\E/127.0.0.1:@{[port()]}/g;
    $deaf =~ s/^( +resolver .*)/$1 resolver_timeout 1s;/m;
    $t->stop;
    $t->run($deaf);
    is shake($t, '/receive-webhook/1200', $secret)->{status}, 200,
        'without DNS nginx starts, and receives';
    is $call->('POST', '', "resource=1201&target=$target")->{status}, 502,
        'a create call fails';

    # who is not Asana gets no token

    (my $conf = $deaf) =~ s/\Q$ca\E/$home->{dir}\/leaf.pem/;
    $conf =~ s/^( +resolver +)[\d.:]+/$1$dns/m;
    $t->reload($conf);
    is $call->('POST', '', "resource=1201&target=$target")->{status}, 502,
        'an Asana without a certificate of its authority is not asked';
    like $t->slurp('error.log'), qr/certificate verify error/, 'for that';
    $t->end;
}

# the first examples of the documentation

for my $page ('README.md', 'docs/reference.md') {
    open my $doc, '<', $page or die $!;
    my ($text) = do { local $/ = undef; <$doc> } =~ /^```nginx\n(.*?)^```/ms;
    close $doc;
    my $t = Receiver->new->app;
    $text =~ s/^load_module .*\n//m;
    $text =~ s{/var/lib/nginx}{$t->{dir}};
    $text =~ s{http://app;}{http://127.0.0.1:$t->{app_port};};
    $text =~ s/(server_name )/listen 127.0.0.1:$t->{port}; $1/;
    $text =~ s/^http \{/"http {\n" . $t->globals_http/me;
    $t->run($t->globals . $text);
    my $uri = '/receive-webhook/7654';
    is shake($t, $uri, $secret)->{status}, 200, "$page: a handshake";
    is deliver($t, $uri, $secret, $body)->{status}, 200, 'a delivery';
    is((http_app($t)->())[1], 'VERIFIED', 'the application is told so');
    is deliver($t, $uri, "$secret-other", $body)->{status}, 403, 'a forged one';
    is deliver($t, $_, $secret, $body)->{status}, 404, "no door: $_"
        for "$uri/", "$uri%0A", '/', '/receive-webhook/07654', uc $uri;
    is scalar(() = $t->seen), 0, 'nothing arrives';
    $t->end;
}

# what examples must not have

for my $file (glob('conf/*.conf docs/*.md'), 'README.md', 'quickstart') {
    open my $fh, '<', $file or die $!;
    my $text = do { local $/ = undef; <$fh> };
    close $fh;
    my ($bad) = $text
        =~ /^( *(?:\w+_(?:set_header|param) +X-Asana-Hook-Status|location ~.*\$"? \{|thread_pool ).*)/m;
    is $bad, undef, "$file: one key a URL, no header of its own, no pool";
}

opendir my $dh, 'conf' or die $!;
is_deeply [sort grep {/\.conf$/} readdir $dh],
    [map {"$_.conf"} sort keys %driven], 'every example is driven';
closedir $dh;

$home->end;

done_testing;
