# Tests for failures at the start: each call of the module fails in turn while
# nginx reads its configuration, makes its zones and starts a worker.  nginx
# ends with an error then, or it lives and works.

use strict;
use warnings;

use lib 't/lib';

use POSIX qw(WNOHANG);
use Test::More;

use Receiver qw(wait_for);
use Wrap;

Wrap->usable;

my $t = Receiver->new(
    expect => qr/\[emerg\]/,
    main   => 'daemon off; master_process off;',
    http   => 'asana_hook_zone $uri$args zone=other:32k state=other/ '
        . 'max_size=1m inactive=1h max_secrets=2;',
    server => 'location /api { asana_hook_api hooks write=on; }
        location /other {
            asana_hook other; asana_hook_enroll $arg_p;
            asana_hook_status 404; asana_hook_heartbeat answer;
        }
        location = /create {
            asana_hook_gateway other; proxy_pass http://127.0.0.1:APP;
        }
        location = /plain { return 200 plain; }'
);
$t->{server} =~ s/APP/$t->{app_port}/;
my $wrap = Wrap->new($t);
$t->app;

my ($code, $text) = $t->test_config($t->conf);
is $code, 0, 'a configuration with all of it' or diag $text;

# What a sanitizer says, which goes to the terminal.  An nginx that ends in
# main() leaves the pool and the options that it made there.

sub complaint {
    my ($said) = @_;
    return 1 if $said =~ /ERROR: AddressSanitizer|runtime error:|wrap:/;
    my @leaks = $said =~ /^(?:Direct|Indirect) leak .*\n((?: +#.*\n)+)/mg;
    return 1 if $said =~ /LeakSanitizer/ && !@leaks;
    return scalar grep {
        !/ in ngx_create_pool .*\n +#\d+ \S+ in main /
            && !/ in ngx_process_options /
    } @leaks;
}

my ($n, %seen, @wrong) = (0);
while (++$n < 1000) {
    $wrap->arm($n);
    ($code, $text) = $t->nginx('-t');
    my $state = $wrap->state;
    $wrap->arm(0);
    last unless $state->{hits};
    $seen{ $state->{name} }++;
    push @wrong, "call $n, $state->{name}: $code $text"
        if $code != 1 || $text !~ /test failed/ || complaint($text);
}
ok !@wrong, 'nginx -t: each failure is one of the test'
    or diag join "\n", @wrong;
is $code, 0, 'and at last there is none';
cmp_ok $n, '>', 30, 'of many';
note $n - 1, ' calls: ', join ' ', map {"$_ $seen{$_}"} sort keys %seen;

my @must = qw(ngx_add_path ngx_array_push ngx_conf_full_name ngx_http_add_variable
    ngx_http_compile_complex_value ngx_http_set_complex_value_slot
    ngx_palloc ngx_pcalloc ngx_pnalloc
    ngx_shared_memory_add ngx_slab_alloc ngx_slab_calloc stat64);
is join(' ', grep { !$seen{$_} } @must), '', 'all that are known fail';

# the same with a worker: nginx as a single process, until it ends or answers

my $secret = 'a-secret-of-printable-text-0123456789';
my $calls  = $n - 1;

sub start {
    my $pid = fork;
    die "fork: $!" unless defined $pid;
    return $pid if $pid;
    @ENV{ keys %{ $t->{env} } } = values %{ $t->{env} };
    open STDERR, '>', "$t->{dir}/said" or POSIX::_exit(127);
    open STDOUT, '>&', \*STDERR or POSIX::_exit(127);
    exec Receiver::binary(), '-p', $t->{dir}, '-c', "$t->{dir}/nginx.conf",
        '-e', "$t->{dir}/error.log"
        or POSIX::_exit(127);
}

sub answers {
    my $s = IO::Socket::INET->new(
        PeerAddr => '127.0.0.1',
        PeerPort => $t->{port}
    ) or return;
    Receiver::request($s, "GET /plain HTTP/1.1\r\nHost: localhost\r\n"
            . "Connection: close\r\n\r\n");
    return Receiver::response($s, 10)->{body} eq 'plain';
}

(%seen, @wrong) = ();
my ($ended, $lived) = (0, 0);
for ($n = $calls + 1; $n < 1000; $n++) {
    $wrap->arm($n);
    my $pid = start();
    my $status;
    wait_for(sub {
        $status = $? if waitpid($pid, WNOHANG) == $pid;
        return defined $status || answers();
    }, 30);
    my $state = $wrap->state;
    $wrap->arm(0);
    my $wrong;
    if (defined $status) {
        $ended++;
        $wrong = "ends with $status"
            if $status != 2 << 8 || !$state->{hits};
    } else {
        $lived++ if $state->{hits};

        # what it could not open is tried again a second later
        my $uri = "/a/$n";
        $wrong = 'no handshake'
            unless wait_for(sub {
            return $t->handshake($uri, $secret)->{status} == 200
                && $t->handshake("/other$uri?p=first", $secret)->{status}
                == 200;
            });
        kill 'QUIT', $pid;
        waitpid $pid, 0;
        $wrong = "at the end $?" if $?;
    }
    my $said = $t->slurp('said');
    $wrong = $said if complaint($said);
    push @wrong, "call $n, $state->{name}: $wrong" if $wrong;
    last unless $state->{hits};
    $seen{ $state->{name} }++;
}
ok !@wrong, 'a worker: ends or lives' or diag join "\n", @wrong;
cmp_ok $ended, '>=', 4, 'where memory fails it ends';
cmp_ok $lived, '>=', 8, 'where the store does, it lives';
note join ' ', map {"$_ $seen{$_}"} sort keys %seen;

$t->end;

done_testing;
