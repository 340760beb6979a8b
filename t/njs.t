# Tests for asana_hook_gateway behind filters of njs, which are called before
# those of the module.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver qw(request response wait_for);

my $dir = qx(tools/modules-path @{[Receiver::binary()]});
chomp $dir;
my $js = "$dir/ngx_http_js_module.so";
plan skip_all => 'no njs (libnginx-mod-http-js)' if !-e $js;

my $t = Receiver->new(
    main   => "load_module $js;",
    http   => 'js_path DIR; js_import filter from filter.js;',
    server => join ' ', map {
        "location = /create/$_ { asana_hook_gateway hooks; "
            . 'js_header_filter filter.header; js_body_filter filter.body; '
            . "proxy_pass http://127.0.0.1:APP; proxy_buffering $_; }"
    } qw(on off)
);
s/APP/$t->{app_port}/g, s/DIR/$t->{dir}/ for $t->{server}, $t->{http};
$t->{location} = 'asana_hook_enroll confirm;';
$t->write_file('filter.js', <<'END');
function header(r) { r.headersOut['X-Filter'] = 'yes'; }
function body(r, data, flags) { r.sendBuffer(data, flags); }
export default { header, body };
END
my ($code, $text) = $t->test_config($t->conf);
plan skip_all => 'njs is of another nginx' if $code && $text =~ /js_module/;
$t->app->run;

my $n = 0;
for my $buffering (qw(on off)) {
    my $s = $t->connection;
    for (1 .. 3) {
        my $secret = sprintf 'secret-%04d-%s', ++$n, 'j' x 40;
        my $body   = qq({"X-Hook-Secret":"$secret"});
        $t->handshake("/k/$n", $secret);
        $t->answer(201, "X-App: yes\r\n", $body);
        request($s, "POST /create/$buffering HTTP/1.1\r\n"
                . "Host: localhost\r\nContent-Length: 1\r\n\r\nx");
        my $r = response($s, 10);
        is $r->{status}, 201, "buffering $buffering: the answer comes";
        like $r->{body}, qr/\Q$body\E/, 'with its body';
        like $r->{head}, qr/^X-Filter: yes\r$/m, 'through the filter';
        is $t->deliver("/k/$n", $secret, 'event')->{status}, 200, 'active';
    }
}
$t->end;

done_testing;
