<?php

namespace App\Console\Commands;

use App\Http\Controllers\StatusController;
use Illuminate\Console\Command;

class Status extends Command
{
    protected $signature = 'chom:status';

    protected $description = 'What GET /api/status says, as JSON; exit 1 unless all is well';

    public function handle(StatusController $controller): int
    {
        $response = $controller->status();
        $this->line($response->getContent());

        return $response->getStatusCode() === 200 ? self::SUCCESS : self::FAILURE;
    }
}
