# Tests for asana_hook_ack and asana_hook_heartbeat: what Asana gets to see.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver qw(sign);

my $secret = 'a-secret-of-printable-text-0123456789';

sub statuses {
    my ($t, @codes) = @_;
    my @got;
    for my $code (@codes) {
        $t->answer($code, '', $code == 204 ? undef : 'app');
        push @got, $t->deliver('/a', $secret, 'event')->{status};
    }
    return join ' ', @got;
}

my @codes = (200, 201, 202, 203, 204, 206, 226, 299, 302, 400, 404, 410, 500,
    503);

my $t = Receiver->new->app->run;
is $t->handshake('/a', $secret)->{status}, 200, 'handshake';
is statuses($t, @codes),
    '200 200 200 200 204 200 200 200 302 400 404 503 500 503', 'ack on';

$t->answer(201, "Location: /x\r\n", 'made');
my $r = $t->deliver('/a', $secret, 'event');
like $r->{head}, qr{^HTTP/1.1 200 OK\r$}m, 'the line of the status is whole';
is $r->{body}, 'made', 'the body stays';
like $r->{head}, qr{^Location: .*/x\r$}m, 'and the headers';

$t->answer(202, '', '');
is $t->call('GET', '/a')->{status}, 202, 'other traffic is left alone';
$t->answer(410, '', '');
is $t->call('GET', '/a')->{status}, 410, 'also at 410';
$t->end;

$t = Receiver->new(location => 'asana_hook_ack off;')->app->run;
$t->handshake('/a', $secret);
is statuses($t, @codes), join(' ', @codes), 'ack off';
$t->end;

# the truth stays in $upstream_status

$t = Receiver->new->app;
(my $conf = $t->conf)
    =~ s/log_format hook [^;]*;/log_format hook '\$status \$upstream_status';/;
$t->run($conf);
$t->handshake('/a', $secret);
statuses($t, 202, 410);
$t->words(3);
is join(',', @{ $t->{lines} }[1, 2]), '200 202,503 410', '$upstream_status';
$t->end;

# intercepted errors, and pages of nginx itself

$t = Receiver->new(
    server   => 'location = /gone { return 410; }',
    location => 'proxy_intercept_errors on; error_page 404 = /gone;'
)->app->run;
$t->handshake('/a', $secret);
is statuses($t, 410, 404), '503 503', 'a 410 of any origin is 503';
$t->end;

# heartbeats

for my $case (['pass', 1], ['answer', 0]) {
    my ($value, $passes) = @$case;
    $t = Receiver->new(location => "asana_hook_heartbeat $value;")->app->run;
    $t->handshake('/a', $secret);
    $t->answer(200, '', 'app');
    $r = $t->deliver('/a', $secret, '{"events":[]}');
    is $r->{status}, 200, "heartbeat $value: 200";
    is $r->{body}, $passes ? 'app' : '', 'by whom it should';
    is scalar(my @seen = $t->seen), $passes, 'the application sees it or not';
    is join(' ', $t->words(2)), 'HANDSHAKE HEARTBEAT', 'HEARTBEAT';
    is $t->deliver('/a', $secret, '{"events":[1]}')->{body}, 'app',
        'events pass';
    is $t->call('POST', '/a', ['X-Hook-Signature: ' . '0' x 64],
        '{"events":[]}')->{status}, 403, 'a forged heartbeat does not';
    $t->end;
}

done_testing;
