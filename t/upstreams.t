# Tests for other upstreams than HTTP/1: fastcgi_pass, grpc_pass, uwsgi_pass.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver qw(sign wait_for);

my $secret = 'a-secret-of-printable-text-0123456789';
my $body   = '{"events":[{"action":"changed"}]}';

# gRPC: an nginx that speaks HTTP/2 passes on to the application

my $t = Receiver->new;
my $h2 = Receiver::port();
$t->{http} = <<"END";
    server {
        listen 127.0.0.1:$h2 http2;
        location / { proxy_pass http://127.0.0.1:$t->{app_port}; }
    }
END
(my $conf = $t->conf) =~ s{(asana_hook hooks;.*?)proxy_pass [^;]*;}
    {$1 grpc_pass grpc://127.0.0.1:$h2;}s;
$t->app->run($conf);

is $t->handshake('/a', $secret)->{status}, 200, 'grpc_pass: handshake';
is $t->deliver('/a', $secret, $body)->{status}, 200, 'a signed one passes';
my @seen = $t->seen;
is scalar(@seen), 1, 'once';
like $seen[0][1], qr/\Q$body\E/, 'the application has it';
is $t->deliver('/a', "$secret-other", $body)->{status}, 403,
    'a forged one does not';
is scalar(@seen = $t->seen), 0, 'nothing arrives';
$t->end;

# FastCGI and uwsgi: the bytes on the wire, as one connection brings them

sub catch {
    my ($port, $answer) = @_;
    my $listen = IO::Socket::INET->new(
        LocalAddr => '127.0.0.1',
        LocalPort => $port,
        Listen    => 16,
        ReuseAddr => 1
    ) or die $!;
    pipe my $out, my $in or die $!;
    my $pid = fork;
    die $! unless defined $pid;
    if ($pid) {
        close $in;
        return ($pid, $out);
    }
    while (my $c = $listen->accept) {
        my $raw = '';
        while (index($raw, $body) < 0) {
            sysread $c, $raw, 65536, length $raw or last;
        }
        print {$c} $answer;
        close $c;
        syswrite $in, index($raw, $body) < 0 ? "none\n" : "body\n";
    }
    POSIX::_exit(0);
    return;
}

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

for my $kind (sort keys %answer) {
    $t = Receiver->new;
    my ($pid, $out) = catch($t->{app_port}, $answer{$kind});
    push @{ $t->{pids} }, $pid;
    ($conf = $t->conf) =~ s{(asana_hook hooks;.*?)proxy_pass [^;]*;}
        {$1 ${kind}_pass 127.0.0.1:$t->{app_port};}s;
    $t->run($conf);

    is $t->handshake('/a', $secret)->{status}, 200, "${kind}_pass: handshake";
    my $r = $t->deliver('/a', $secret, $body);
    is $r->{status}, 200, 'a signed one passes';
    like $r->{body}, qr/app/, 'to the application';
    is scalar(<$out>), "body\n", 'whole';
    is $t->deliver('/a', "$secret-other", $body)->{status}, 403,
        'a forged one does not';
    is $t->call('PUT', '/a', [], $body)->{status}, 403, 'nor an unsigned PUT';
    ok !IO::Select->new($out)->can_read(0), 'nothing arrives';
    $t->end;
}

done_testing;
