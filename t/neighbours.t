# Tests for docs/neighbours.md: what other directives and modules of nginx do
# beside asana_hook, as far as no other file shows it.

use strict;
use warnings;

use lib 't/lib';

use IO::Uncompress::Gunzip qw(gunzip);
use Test::More;

use Receiver qw(port sign wait_for);
use Upstream;

my $secret = 'a-secret-of-printable-text-0123456789';
my $other  = 'another-secret-of-printable-text-0123';
my $body   = '{"events":[{"action":"changed"}]}';
my $built  = (Receiver->new->nginx('-V'))[1];
my $t;

# One key for all locations, and its secret.

sub start {
    my $conf = $t->conf =~ s/(asana_hook_zone) \S+/$1 global/r;
    $t->app->run($conf);
    is $t->handshake('/', $secret)->{status}, 200, 'a handshake';
    $t->words;
    return;
}

# What the application got: method, URI and word of each request.

sub got {
    my ($n) = @_;
    my @seen;
    wait_for(sub { push @seen, $t->seen; @seen >= $n }, 10);
    return map {
        my ($line) = $_->[0] =~ /^(\S+ \S+)/;
        join ' ', $line, $_->[0] =~ /^X-Asana-Hook-Status: (\S+)/mg;
    } @seen;
}

# What has come so far, and nothing else: nginx has one worker.

sub silent {
    my ($name) = @_;
    $t->call('GET', '/plain');
    is_deeply [got(1)], ['GET /plain'], $name;
    return;
}

sub counted {
    return $t->call('GET', '/api/metrics')->{body}
        =~ /^asana_hook_deliveries_total\{.*result="(\w+)"\} (\d+)$/mg;
}

# The status of a delivery, its word in the log, and what the zone has counted.

sub outcome {
    my ($send) = @_;
    my %before = counted();
    $t->words;
    my $r = $send->();
    my ($word, %after);
    wait_for(sub {
        $t->words;
        ($word) = map {/\[(.*?)\]/} grep { !m{^\S+ /api} } @{ $t->{lines} };
        return defined $word;
    });
    %after = counted();
    return join ' ', $r->{status}, $word,
        grep { $after{$_} != $before{$_} } sort keys %after;
}

sub signed {
    my ($uri, @headers) = @_;
    return outcome(sub { $t->deliver($uri, $secret, $body, @headers) });
}

sub unsigned {
    my ($uri, $content) = @_;
    return outcome(sub { $t->call('POST', $uri, [], $content) });
}

my $proxy = 'proxy_pass http://127.0.0.1:APP;';

sub locations {
    my (%lines) = @_;
    my $text = "location /api { asana_hook_api hooks; }\n"
        . "location = /plain { $proxy }\n";
    $text .= "location $_ { $lines{$_} }\n" for sort keys %lines;
    return $text =~ s/APP/$t->{app_port}/gr;
}

# what nginx does before the module is asked

$t = Receiver->new(
    http => 'limit_req_zone $server_name zone=all:1m rate=1r/m;');
$t->{server} = locations(
    '= /hooked'  => "asana_hook hooks; $proxy",
    '= /limited' => "asana_hook hooks; limit_req zone=all; $proxy",
    '= /denied'  => "asana_hook hooks; deny all; $proxy",
    '= /basic'   => 'asana_hook hooks; auth_basic x; '
        . "auth_basic_user_file none; $proxy",
    '= /auth'    => "asana_hook hooks; auth_request /check; $proxy",
    '= /check'   => 'internal; proxy_pass_request_body off; '
        . "proxy_set_header Content-Length ''; $proxy",
    '= /small'   => "asana_hook hooks; client_max_body_size 10; $proxy",
    '= /e418'    => 'error_page 418 = /hooked; return 418;',
    '= /e403'    => "asana_hook hooks; error_page 403 = /hooked; $proxy",
    '= /mirror'  => "asana_hook hooks; mirror /copy; $proxy",
    '= /copy'    => "internal; $proxy",
    '= /after'   => $proxy,
    '= /post'    => "asana_hook hooks; post_action /after; $proxy",
    '= /again'   => "asana_hook hooks; post_action /hooked; $proxy",
    '= /kept'    => 'asana_hook hooks; client_body_in_file_only on; '
        . $proxy
);
start();

is signed('/limited'), '200 VERIFIED verified', 'limit_req: a delivery';
is signed('/limited'), '503 -', 'another one is not judged, nor counted';
is_deeply [got(1)], ['POST /limited VERIFIED'], 'and does not arrive';
is signed('/denied'), '403 -', 'deny';
is signed('/small'), '413 -', 'client_max_body_size';
is signed('/basic'), '401 -', 'auth_basic: Asana has no password';
is $t->handshake('/basic', $secret)->{status}, 401, 'nor has its handshake';

is unsigned('/auth', $body), '403 UNSIGNED unsigned', 'auth_request';
is_deeply [got(1)], ['GET /check'], 'is asked before the module';
$t->answer(401, '', '');
$t->words;
my $r = $t->handshake('/auth', $secret);
is $r->{status}, 401, 'and turns handshakes away';
unlike $r->{head}, qr/^X-Hook-Secret:/mi, 'without an echo';
is_deeply [got(1)], ['GET /check'], 'by its answer';
$t->words;
$t->answer(200, '', 'app');

# "error_page code = /uri" leaves a GET, and what was announced of a body

is unsigned('/e418'), '200 UNCHECKED', 'error_page: an empty POST';
is_deeply [got(1)], ['GET /hooked UNCHECKED'], 'is a GET there';
is unsigned('/e418', $body), '403 UNSIGNED unsigned', 'one with a body';
silent('does not arrive');
is unsigned('/e403'), '200 UNCHECKED unsigned',
    'an empty POST that was rejected';
is_deeply [got(1)], ['GET /hooked UNCHECKED'], 'is such a GET as well';
is signed('/e418'), '200 VERIFIED verified', 'a signed one';
is_deeply [got(1)], ['GET /hooked VERIFIED'], 'arrives as a GET';

# what comes after it

is $t->call('GET', '/mirror')->{status}, 200, 'mirror: a GET';
is_deeply [sort(got(2))], ['GET /copy', 'GET /mirror UNCHECKED'],
    'has a copy without a word';
$t->words;

is unsigned('/post', $body), '403 UNSIGNED unsigned', 'post_action: rejected';
is_deeply [got(1)], ['POST /after'], 'goes there all the same, with no word';
is unsigned('/again', $body), '403 UNSIGNED unsigned',
    'post_action to a hooked location: rejected';
silent('is rejected there too');
is signed('/again'), '200 VERIFIED verified', 'a delivery, counted once';
is_deeply [got(2)], ['POST /again VERIFIED', 'POST /hooked VERIFIED'],
    'keeps its word';

for my $with ($secret, $other) {
    my @before = glob "$t->{dir}/tmp-body/*";
    my $want = $with eq $secret ? 200 : 403;
    is $t->deliver('/kept', $with, $body)->{status}, $want,
        "client_body_in_file_only on: $want";
    my @after = glob "$t->{dir}/tmp-body/*";
    is @after - @before, 1, 'its body stays in a file';
}
$t->end;

# files by WebDAV, numbers by stub_status

SKIP: {
    skip 'nginx has no dav_methods', 1
        if $built !~ /--with-http_dav_module/;
    $t = Receiver->new(expect => qr/must be in a file/);
    my $dav = "asana_hook hooks; root $t->{dir}; dav_methods PUT DELETE;";
    $t->{server} = locations(
        '/memory/' => $dav,
        '/file/'   => "$dav client_body_in_file_only clean;"
    );
    for my $name ('memory', 'file') {
        mkdir "$t->{dir}/$name" or die $!;
        chmod 0777, "$t->{dir}/$name" or die $!;
    }
    start();
    my $send = sub {
        my ($method, $uri, $content, @headers) = @_;
        return $t->call($method, $uri, [@headers], $content)->{status};
    };
    my $mac   = 'X-Hook-Signature: ' . sign($secret, $body);
    my $empty = 'X-Hook-Signature: ' . sign($secret, '');

    is $send->('PUT', '/file/a', $body), 403, 'dav_methods: an unsigned PUT';
    ok !-e "$t->{dir}/file/a", 'writes nothing';
    is $send->('PUT', '/file/a', $body, $mac), 200, 'a signed one';
    is $t->slurp('file/a'), $body, 'does';
    is $send->('DELETE', '/file/a'), 403, 'an unsigned DELETE';
    ok -e "$t->{dir}/file/a", 'removes nothing';
    is $send->('DELETE', '/file/a', undef, $empty), 204, 'a signed one';
    ok !-e "$t->{dir}/file/a", 'does';
    is $send->('PUT', '/memory/a', $body, $mac), 500,
        'a PUT whose body is in memory fails';
    like $t->slurp('error.log'), qr/PUT request body must be in a file/,
        'for that';
    $t->end;
}

SKIP: {
    skip 'nginx has no stub_status', 1
        if $built !~ /--with-http_stub_status_module/;
    $t = Receiver->new;
    $t->{server} = locations('= /status' => 'asana_hook hooks; stub_status;');
    start();
    like $t->call('GET', '/status')->{body}, qr/^Active connections: \d/,
        'stub_status: a GET';
    is(($t->words)[-1], 'UNCHECKED', 'UNCHECKED');
    is unsigned('/status', $body), '403 UNSIGNED unsigned', 'a POST';
    $t->end;
}

# more than one server, and answers that are kept

$t = Receiver->new;
my $up   = Upstream->new($t);
my $dead = port();
$t->{http} = <<"END";
    proxy_cache_path $t->{dir}/cache keys_zone=answers:1m;
    upstream two {
        server 127.0.0.1:$up->{port} max_fails=0;
        server 127.0.0.1:$t->{app_port} backup;
    }
    upstream dead {
        server 127.0.0.1:$dead max_fails=0;
        server 127.0.0.1:$t->{app_port} backup;
    }
END
my $cache = 'asana_hook hooks; proxy_cache answers; proxy_cache_key $uri; '
    . 'proxy_cache_valid 200 1m;';
$t->{server} = locations(
    '= /two'   => 'asana_hook hooks; proxy_pass http://two;',
    '= /retry' => 'asana_hook hooks; proxy_pass http://two; '
        . 'proxy_next_upstream error http_500 non_idempotent;',
    '= /dead'  => 'asana_hook hooks; proxy_pass http://dead;',
    '= /cache' => "$cache $proxy",
    '= /posts' => "$cache proxy_cache_methods POST; $proxy"
);
start();

$up->plan('broken', 'close');
$up->plan('fails', [send => Upstream::by_length(500, 'fails')], 'close');
is signed('/two', 'X-Plan: broken'), '502 VERIFIED verified',
    'a server that breaks off';
silent('no other server gets the delivery');
is signed('/two', 'X-Plan: fails'), '500 VERIFIED verified',
    'nor if it fails';
silent('none');
is signed('/dead'), '200 VERIFIED verified', 'a server that is not there';
is_deeply [got(1)], ['POST /dead VERIFIED'], 'the next one gets it';
is signed('/retry', 'X-Plan: fails'), '200 VERIFIED verified',
    'non_idempotent: a delivery is sent again, and counted once';
my @seen = $t->seen;
is scalar(@seen), 1, 'to the next server';
for my $raw ($up->{t}->slurp('plans/fails.got') =~ /^(POST \/retry.*)/ms,
    join "\r\n\r\n", @{ $seen[0] })
{
    like $raw, qr/^X-Asana-Hook-Status: VERIFIED\r?$/m, 'with the word';
    like $raw, qr/\Q$body\E\z/, 'and the body';
}
is $t->call('GET', '/api/metrics')->{body}
    =~ /^asana_hook_answers_total\{zone="hooks",class="success"\} 2$/m, 1,
    'and is one success';

is signed('/cache'), '200 VERIFIED verified', 'proxy_cache: a delivery'
    for 1, 2;
is_deeply [got(2)], [('POST /cache VERIFIED') x 2], 'each of them arrives';
$t->call('GET', '/cache') for 1, 2;
is_deeply [got(1)], ['GET /cache UNCHECKED'], 'of two GETs one does';
$t->words;
is signed('/posts'), '200 VERIFIED verified', 'proxy_cache_methods POST'
    for 1, 2;
is_deeply [got(1)], ['POST /posts VERIFIED'], 'the second does not arrive';
is unsigned('/posts', $body), '403 UNSIGNED unsigned',
    'an unsigned one is rejected';
silent('and does not arrive');
$t->end;

# what changes answers

$t = Receiver->new;
my $sub = $built !~ /--with-http_sub_module/ ? ''
    : 'sub_filter x-old x-new; sub_filter_once off; sub_filter_types *;';
my $zip = "gzip on; gzip_min_length 1; gzip_types *; $sub";
$t->{server} = locations(
    '= /zip'  => "asana_hook hooks; $zip $proxy",
    '= /gate' => "asana_hook_gateway hooks; $zip $proxy"
);
$t->{location} = 'asana_hook_enroll confirm;';
start();

sub zipped {
    my ($from) = @_;
    return $from->{body} if $from->{head} !~ /^Content-Encoding: gzip\r$/m;
    my $raw = $from->{body};
    if ($from->{head} =~ /^Transfer-Encoding: chunked\r$/m) {
        my $whole = '';
        while ($raw =~ s/\A([\da-f]+)\r\n//i && hex $1) {
            $whole .= substr $raw, 0, hex $1, '';
            substr $raw, 0, 2, '';
        }
        $raw = $whole;
    }
    gunzip(\$raw, \my $text) or die "gunzip\n";
    return $text;
}

my $want = $sub ? 'x-new' : 'x-old';
$t->answer(201, "Content-Type: application/json\r\n",
    qq({"x":"x-old","X-Hook-Secret":"$secret"}));
$r = $t->call('POST', '/gate', ['Accept-Encoding: gzip'], 'x');
is $r->{status}, 201, 'gzip, sub_filter: a create call';
is(($t->words)[-1], 'CONFIRMED', 'is read as it came from Asana');
like zipped($r), qr/"$want","X-Hook-Secret":"\Q$secret\E"/,
    'and is changed after that';

$r = $t->call('POST', '/zip',
    ["X-Hook-Secret: $secret", 'Accept-Encoding: gzip'], '');
is $r->{status}, 200, 'a handshake';
like $r->{head}, qr/^X-Hook-Secret: \Q$secret\E\r$/m, 'has its header';
unlike $r->{head}, qr/^Content-Encoding:/m, 'and nothing to compress';
$t->words;
$t->answer(202, "Content-Type: text/html\r\n", 'x-old ' x 100);
$r = $t->deliver('/zip', $secret, $body, 'Accept-Encoding: gzip');
is $r->{status}, 200, 'a delivery: 200 for 202';
like $r->{head}, qr/^Content-Encoding: gzip\r$/m, 'is compressed';
is zipped($r), "$want " x 100, 'and changed';
$t->end;

# JavaScript

SKIP: {
    my $dir = qx(tools/modules-path @{[Receiver::binary()]});
    chomp $dir;
    my $js = "$dir/ngx_http_js_module.so";
    skip 'no njs (libnginx-mod-http-js)', 1 if !-e $js;

    $t = Receiver->new(main => "load_module $js;");
    $t->{http} = "js_path $t->{dir}; js_import main from main.js;";
    $t->{server} = locations(
        '= /js'      => 'asana_hook hooks; js_content main.content;',
        '= /sub'     => 'asana_hook hooks; js_content main.sub;',
        '= /go'      => 'asana_hook hooks; js_content main.go;',
        '@app'       => "asana_hook hooks; $proxy",
        '= /filters' => 'asana_hook hooks; js_header_filter main.header; '
            . "js_body_filter main.body; $proxy"
    );
    $t->write_file('main.js', <<'END');
function content(r) {
    r.return(200, r.headersIn['X-Asana-Hook-Status'] + ' ' + r.requestText);
}
function sub(r) {
    r.subrequest('/plain', { method: 'POST', body: r.requestText },
        function(reply) { r.return(reply.status, reply.responseText); });
}
function go(r) { r.internalRedirect('@app'); }
function header(r) { r.headersOut['X-Filter'] = 'yes'; }
function body(r, data, flags) { r.sendBuffer(data.toUpperCase(), flags); }
export default { content, sub, go, header, body };
END
    my ($code, $text) = $t->test_config($t->conf);
    if ($code && $text =~ /js_module/) {
        $t->end;
        skip 'njs is of another nginx', 1;
    }
    start();

    for my $uri (qw(/js /sub /go /filters)) {
        is unsigned($uri, $body), '403 UNSIGNED unsigned',
            "njs: an unsigned one at $uri";
    }
    silent('does not arrive');
    is $t->deliver('/js', $secret, $body)->{body}, "VERIFIED $body",
        'js_content has the word and the body';
    $t->words;
    is signed('/sub'), '200 VERIFIED verified', 'a subrequest of njs';
    is_deeply [got(1)], ['POST /plain'], 'has no word';
    is signed('/go'), '200 VERIFIED verified', 'internalRedirect()';
    is_deeply [got(1)], ['POST /go VERIFIED'], 'keeps it';

    $t->answer(202, '', 'app');
    $r = $t->deliver('/filters', $secret, $body);
    is "$r->{status} $r->{body}", '200 APP', 'js_body_filter: changed';
    like $r->{head}, qr/^X-Filter: yes\r$/m, 'and js_header_filter';
    $r = $t->handshake('/filters', $secret);
    is "$r->{status} $r->{body}", '200 ', 'a handshake';
    like $r->{head}, qr/^X-Hook-Secret: \Q$secret\E\r$/m, 'is echoed';
    like $r->{head}, qr/^X-Filter: yes\r$/m, 'through the filter';
    $t->end;
}

done_testing;
