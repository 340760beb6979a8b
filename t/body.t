# Tests for bodies: the signature is taken over the bytes as received, where
# ever nginx holds them, and the application gets the same bytes.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver qw(request response sign);

my $secret = 'a-secret-of-printable-text-0123456789';

sub bytes {
    my ($n, $seed) = @_;
    srand($seed || 1);
    my $block = join '', map { chr int rand 256 } 1 .. 4096;
    return substr $block x (1 + $n / 4096), 0, $n;
}

sub chunked {
    my ($body, $size) = @_;
    my $out = '';
    while (length $body) {
        my $part = substr $body, 0, $size, '';
        $out .= sprintf "%x\r\n%s\r\n", length $part, $part;
    }
    return "${out}0\r\n\r\n";
}

sub head {
    my ($mac, @more) = @_;
    return join "\r\n", 'POST /a HTTP/1.1', 'Host: localhost',
        "X-Hook-Signature: $mac", 'Connection: close', @more, '', '';
}

for my $setting (
    'client_body_buffer_size 16k;',
    'client_body_buffer_size 10m;',
    'client_body_in_file_only clean;',
    'client_body_in_single_buffer on; client_body_buffer_size 1m;',
    'proxy_request_buffering off; proxy_http_version 1.1;'
    )
{
    my $t = Receiver->new(
        location => "client_max_body_size 10m; $setting")->app->run;
    is $t->handshake('/a', $secret)->{status}, 200, $setting;

    for my $n (0, 1, 1023, 16383, 16384, 16385, 100_000, 1_100_000, 5_242_880)
    {
        my $body = bytes($n, $n);
        my $mac  = sign($secret, $body);
        is $t->deliver('/a', $secret, $body)->{status}, 200, "$n bytes";
        my @seen = $t->seen;
        ok $seen[0][1] eq $body, 'the same bytes arrive';

        next if $n == 0;
        my $forged = $body;
        substr($forged, $n - 1, 1) ^= "\x01";
        is $t->call('POST', '/a', ["X-Hook-Signature: $mac"], $forged)
            ->{status}, 403, 'not with the last bit changed';
        is scalar(@seen = $t->seen), 0, 'nothing arrives';

        next if $n > 100_000;
        is $t->http(head($mac, 'Transfer-Encoding: chunked')
                . chunked($body, 1000))->{status}, 200, 'chunked';
        @seen = $t->seen;
        ok $seen[0][1] eq $body, 'the same bytes arrive';
    }

    my $body = bytes(50_000);
    my $mac  = sign($secret, $body);
    my $raw  = head($mac, 'Content-Length: 50000') . $body;
    my @pieces = map { substr $raw, $_ * 5000, 5000 } 0 .. length($raw) / 5000;
    is $t->http(@pieces)->{status}, 200, 'in pieces';
    my @seen = $t->seen;
    ok $seen[0][1] eq $body, 'the same bytes arrive';

    $raw = head(sign($secret, 'abc'), 'Content-Length: 3') . 'abc';
    is $t->http(split //, $raw)->{status}, 200, 'byte by byte'
        if $setting =~ /16k/;
    $t->seen;

    # a body cut short proves nothing

    my $s = $t->connection;
    request($s, head($mac, 'Content-Length: 50000') . substr $body, 0, 40_000);
    close $s;
    is $t->call('GET', '/a')->{status}, 200, 'cut short';
    is scalar(@seen = $t->seen), 1, 'only the GET arrives';

    is $t->http(head($mac, 'Transfer-Encoding: chunked') . "zz\r\n")->{status},
        400, 'broken framing';
    is $t->http(head($mac, 'Content-Length: 99999999'))->{status}, 413,
        'more than client_max_body_size';
    is scalar(@seen = $t->seen), 0, 'nothing arrives';

    $t->end;
}

done_testing;
