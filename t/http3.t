# Tests for HTTP/3, where nginx has it and curl speaks it.

use strict;
use warnings;

use lib 't/lib';

use POSIX ();
use Test::More;

use Receiver qw(port sign);

my $nginx = Receiver::binary();
plan skip_all => 'nginx has no HTTP/3'
    if `$nginx -V 2>&1` !~ /--with-http_v3_module/;
plan skip_all => 'curl has no HTTP/3'
    if `curl --version 2>&1` !~ /\bHTTP3\b/;

my $secret = 'a-secret-of-printable-text-0123456789';
my $event  = '{"events":[{"action":"changed"}]}';
my $port   = port();
my $t      = Receiver->new;
my $dir    = $t->{dir};

system("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes "
        . "-days 2 -subj /CN=localhost -keyout $dir/key.pem "
        . "-out $dir/cert.pem >$dir/openssl.log 2>&1") == 0
    or BAIL_OUT('no certificate');

$t->{server} = <<"END";
    listen 127.0.0.1:$port quic;
    ssl_certificate $dir/cert.pem;
    ssl_certificate_key $dir/key.pem;
    client_max_body_size 10m;
END

# Sends the body with its length, or, as a stream, without.

sub h3 {
    my ($method, $uri, $headers, $body, $stream) = @_;
    my @data;
    if (defined $body) {
        $t->write_file('body', $body);
        @data = $stream ? ('-T', '-') : ('--data-binary', "\@$dir/body");
    }
    my @method = $method eq 'HEAD' ? '-I' : ('-X', $method);
    my $pid = open my $out, '-|';
    die "fork: $!\n" if !defined $pid;
    if (!$pid) {
        open STDIN, '<', $stream ? "$dir/body" : '/dev/null'
            or POSIX::_exit(127);
        exec 'curl', '-sk', '--max-time', 20, '--http3-only', '--resolve',
            "localhost:$port:127.0.0.1", '-o', "$dir/out", '-D', "$dir/head",
            '-w', '%{http_code} %{http_version}', @method,
            (map { ('-H', $_) } 'Content-Type:', 'Expect:', @{$headers}),
            @data, "https://localhost:$port$uri"
            or POSIX::_exit(127);
    }
    my $line = <$out>;
    close $out;
    my ($status, $version) = split ' ', $line || '0 0';
    return { status => $status, version => $version,
        head => $t->slurp('head') };
}

sub signed { my ($body) = @_; return ['X-Hook-Signature: '
        . sign($secret, $body)] }

$t->app->run;

my $r = h3('POST', '/a', ["X-Hook-Secret: $secret"], '');
is $r->{status}, 200, 'a handshake';
is $r->{version}, 3, 'over HTTP/3';
like $r->{head}, qr/^x-hook-secret: \Q$secret\E\r$/mi, 'is echoed';
is h3('POST', '/a', ['X-Hook-Secret: ' . 'x' x 20])->{status}, 403,
    'another one is refused';
is h3('POST', '/b', ["X-Hook-Secret: $secret", "X-Hook-Secret: $secret"])
    ->{status}, 400, 'a repeated header';
is join(' ', $t->words(3)), 'HANDSHAKE REFUSED MALFORMED', 'the words';

for my $stream (0, 1) {
    my $how = $stream ? 'without a length' : 'with its length';

    for my $body ($event, 'x' x 100_000, join('', 'a' .. 'zzzz') x 3) {
        my $n = length $body;
        is h3('POST', '/a', signed($body), $body, $stream)->{status}, 200,
            "$n bytes, $how";
        my @seen = $t->seen;
        ok @seen == 1 && $seen[0][1] eq $body, 'the same bytes arrive';
        (my $forged = $body) =~ s/.$/~/;
        is h3('POST', '/a', signed($body), $forged, $stream)->{status}, 403,
            'not with another last byte';
        @seen = $t->seen;
        is scalar(@seen), 0, 'nothing arrives';
    }

    for my $method (qw(POST PUT GET OPTIONS)) {
        is h3($method, '/a', [], $event, $stream)->{status}, 403,
            "an unsigned $method, $how";
    }
    my @seen = $t->seen;
    is scalar(@seen), 0, 'nothing arrives';
}

for my $method (qw(GET HEAD)) {
    is h3($method, '/a', [])->{status}, 200, "$method without a body";
    my @seen = $t->seen;
    is scalar(@seen), 1, 'arrives';
}
is h3('POST', '/a', ['X-Hook-Signature: ' . '0' x 63], $event)->{status}, 403,
    'a signature that is none';

$t->secrecy($secret);
$t->end;

done_testing;
