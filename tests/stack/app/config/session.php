<?php

return ['driver' => 'array', 'lifetime' => 120, 'cookie' => 'chom_session', 'path' => '/', 'secure' => true, 'http_only' => true, 'same_site' => 'lax'];
